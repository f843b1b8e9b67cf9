"""The documentation: its programs run and print what it says, its links resolve, the table of
methods is correct, and everything public has a docstring."""

import asyncio
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import ferroloop
import pytest
from ferroloop import _ferroloop

from benches import headlines, results

ROOT = Path(__file__).parent.parent
OTHER_PAGES = [ROOT / "benches" / "README.md", ROOT / "compat" / "README.md"]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *OTHER_PAGES])
TESTS = ROOT / "tests"
EVERY_PAGE = [*PAGES, *TESTS.glob("*.md"), *TESTS.glob("*/*.md"), *ROOT.glob("fuzz/*.md")]
PROGRAM = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.M | re.S)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"(?:^    |`)(make [^`#\n]+)", re.M)

# How fenced text that is not a program's output begins: abbreviated socket traffic.
SHOWN = {"DIAGNOSTICS.md": "> {"}
# Pages whose output contains times and addresses: their numbers are not compared.
VARYING = ("DIAGNOSTICS.md",)
# What test_embedding_page.py does step by step.
FOLLOWED = {"EMBEDDING.md": ("rs", "sh", "text")}
ROW = re.compile(r"^\| `(\w+)` \| (native|ours|asyncio's) \| (.*) \|$", re.M)


def varying(text):
    """A page's or a program's output without numbers and the names of system calls."""
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r"blocked in \w+", "blocked in CALL", text))


def expected(output):
    """The pattern for an output that a page shows; `...` stands for any number of lines."""
    lines = varying(output).splitlines(keepends=True)
    return "".join(r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line) for line in lines)


def programs():
    """Every Python program in the pages, with the output that follows it, if any."""
    for page in PAGES:
        text = page.read_text()
        for found in PROGRAM.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            output = found[2]
            if output is not None:
                output = expected(output) if page.name in VARYING else re.escape(output)
            if output is not None and page.name == "CORES.md":
                output = f"(?:{output})+"  # one of them prints its line twice on some versions
            # One line shows how one of our classes is declared.
            if "_ferroloop.EventLoop, " not in found[1]:
                yield pytest.param(found[1], output, id=f"{page.name}:{line}")


@pytest.mark.parametrize(("source", "output"), list(programs()))
def test_program(source, output, request, tmp_path):
    if "ferroloop" not in request.config.getoption("--loops").split(","):
        pytest.skip("they are about ferroloop")
    if "opentelemetry" in source:
        pytest.importorskip("opentelemetry.metrics")
    (tmp_path / "example.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if output is not None:
        printed = done.stdout + done.stderr.replace(f"{tmp_path}{os.sep}", "")
        shown = varying(printed) if request.node.callspec.id.startswith(VARYING) else printed
        assert re.fullmatch(output, shown), printed


def test_the_pages_have_programs():
    pages = Counter(parameters.id.partition(":")[0] for parameters in programs())
    assert pages["GUIDE.md"] >= 7
    assert pages["DIAGNOSTICS.md"] >= 7
    assert pages["README.md"] >= 1


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run(page):
    """Fenced blocks are programs that test_program() runs, their output, or Rust that `cargo test`
    runs as part of the crate's documentation; every `make` target mentioned exists."""
    text = page.read_text()
    outputs = [found[2] for found in PROGRAM.finditer(text) if found[2] is not None]
    for language, block in BLOCK.findall(text):
        if language == "rust":
            included = f'include_str!("../docs/{page.name}")'
            assert included in (ROOT / "src" / "lib.rs").read_text()
        elif language == "toml":
            tomllib.loads(block)
        elif language in FOLLOWED.get(page.name, ()):
            continue
        elif language == "text" and block not in outputs:
            assert block.startswith(SHOWN[page.name]), block
        else:
            assert language in ("python", "text"), block
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    for command in COMMAND.findall(text):
        for word in command.split()[1:]:
            if "=" in word or '"' in word:
                break
            assert word.rstrip(",") in targets, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?://|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", headlines.files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_charts_and_figures_are_those_of_the_results(path):
    assert path.read_text() == headlines.files()[path], "run python -m benches.headlines"


def test_rows_of_the_results():
    read = results.read((ROOT / "benches" / "RESULTS.md").read_text())
    rows = {row.name: row for row in read.rows}
    assert len(rows) > 100
    assert set(headlines.WORKLOADS) <= set(rows)
    assert read.baseline == "uvloop"
    cells = rows["spawn"].cells
    assert list(cells) == read.loops
    assert cells["uvloop"].ratio == (1, 1, 1)
    median, low, high = cells["ferroloop"].ratio
    assert low <= median <= high
    assert re.fullmatch(r"[\d.]+ ns", cells["ferroloop"].cost)
    # A loop that failed has a word instead of a figure.
    line = "| a (b) (`c`) | 1 µs · 2.00x (1.50-2.50) | 2 µs | crash | 1 ns · 9.00x (2.60-9.00) |"
    head = "the cost on\nuvloop divided\n## G\n| workload | ferroloop | uvloop | rloop | zuvloop |"
    (row,) = results.read(f"{head}\n{line}\n").rows
    assert (row.group, row.title, row.name) == ("G", "a (b)", "c")
    assert row.cells["rloop"] == results.Cell("crash", None)
    assert row.faster() == ["zuvloop"]


def origin(name):
    """Where a method of the loop is defined, in the table's words."""
    for base in ferroloop.EventLoop.__mro__:
        if name in vars(base):
            if base is _ferroloop.EventLoop or base.__module__ == _ferroloop.__name__:
                return "native"
            return "ours" if base.__module__.startswith("ferroloop") else "asyncio's"
    raise AssertionError(name)


def test_the_table_of_methods():
    table = (ROOT / "docs" / "COMPATIBILITY.md").read_text()
    listed = {name: where for name, where, _ in ROW.findall(table)}
    methods = {
        name
        for base in (asyncio.AbstractEventLoop, asyncio.SelectorEventLoop)
        for name in dir(base)
        if not name.startswith("_") and callable(getattr(base, name))
    }
    # Methods of other versions or other systems.
    methods.discard("set_child_watcher")
    assert {name: origin(name) for name in methods} == {
        name: where for name, where in listed.items() if name in methods
    }
    assert not listed.keys() - methods


def public_members():
    modules = [ferroloop]
    for info in pkgutil.iter_modules(ferroloop.__path__, "ferroloop."):
        if info.name.rpartition(".")[2] not in ("__main__", "_ferroloop"):
            modules.append(importlib.import_module(info.name))
    for module in modules:
        yield module.__name__, module
        for name, value in vars(module).items():
            if name.startswith("_") or not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            if getattr(value, "__module__", "").startswith("ferroloop"):
                yield f"{module.__name__}.{name}", value
                if inspect.isclass(value):
                    yield from members(f"{module.__name__}.{name}", value)


def members(path, cls):
    for name, value in vars(cls).items():
        described = (
            isinstance(value, property) or callable(value) or inspect.isdatadescriptor(value)
        )
        if not name.startswith("_") and described and not inspect.ismemberdescriptor(value):
            yield f"{path}.{name}", value


def test_everything_public_has_a_docstring():
    found = dict(public_members())
    assert len(found) > 60
    # An overriding method inherits the docstring of the one it overrides.
    assert [path for path, value in found.items() if not inspect.getdoc(value)] == []
    for native in (ferroloop.Future, ferroloop.Task, ferroloop.Handle, ferroloop.TimerHandle):
        missing = [path for path, value in members(native.__name__, native) if not value.__doc__]
        assert missing == []


def test_the_architecture_page_names_files_that_exist():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`([\w./-]+(?:\.rs|\.py|/))`", text)) - {"mod.rs"}
    homes = (ROOT, ROOT / "src", ROOT / "python" / "ferroloop")
    missing = [name for name in named if not any((home / name).exists() for home in homes)]
    assert len(named) > 80
    assert missing == []
