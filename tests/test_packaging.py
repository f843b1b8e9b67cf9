"""Packaging of programs: archives, and tools that scan for imports to freeze a program."""

import ast
import importlib.machinery
import importlib.util
import modulefinder
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import ferroloop
import pytest

CHECKOUT = Path(__file__).parents[1]
SOURCES = CHECKOUT / "src"
SUFFIXES = tuple(importlib.machinery.EXTENSION_SUFFIXES)
PACKAGE = Path(ferroloop.__file__).parent


def imported_by_name():
    """The modules that the Rust code imports by name."""
    by_call = r'\.import\(\s*(?:py,\s*)?"([\w.]+)"'
    in_table = r'^\s*\w+ = "([\w.]+)": "\w+";'
    names = set()
    for path in SOURCES.rglob("*.rs"):
        text = path.read_text()
        names.update(re.findall(by_call, text))
        names.update(re.findall(in_table, text, re.MULTILINE))
    assert {"ferroloop.thread_pool", "asyncio.trsock", "logging"} <= names
    return names


def test_a_scan_sees_what_the_extension_imports(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import ferroloop\n")
    finder = modulefinder.ModuleFinder(path=[str(PACKAGE.parent), *sys.path])
    finder.run_script(str(program))
    unseen = imported_by_name() - set(finder.modules) - set(sys.builtin_module_names)
    assert unseen == set()


def test_the_hook_of_pyinstaller_names_them():
    from ferroloop.__pyinstaller import get_hook_dirs

    (directory,) = get_hook_dirs()
    tree = ast.parse((Path(directory) / "hook-ferroloop.py").read_text())
    (assignment,) = [node for node in tree.body if isinstance(node, ast.Assign)]
    assert assignment.targets[0].id == "hiddenimports"
    named = set(ast.literal_eval(assignment.value))
    own = {name for name in imported_by_name() if name.startswith("ferroloop.")}
    assert named == own
    assert all(importlib.util.find_spec(name) for name in named)


def test_the_error_in_a_zip_archive(tmp_path):
    archive = tmp_path / "program.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(
            "__main__.py", "try:\n    import ferroloop\nexcept ImportError as e:\n    print(e)\n"
        )
        for path in PACKAGE.iterdir():
            if path.is_file():
                file.write(path, f"ferroloop/{path.name}")
    # Not from elsewhere: -I ignores PYTHONPATH.
    found = subprocess.run(
        [sys.executable, "-I", "-S", archive], capture_output=True, text=True, timeout=30
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == (
        f"ferroloop cannot be imported from the zip archive {archive}: an extension "
        "module can only be loaded from a file. Install ferroloop beside the archive, or have "
        "the archive unpacked (as shiv and pex do)\n"
    )


def test_without_an_extension_pythons_own_error_is_raised(tmp_path):
    copy = tmp_path / "ferroloop"
    shutil.copytree(
        PACKAGE,
        copy,
        ignore=lambda _, names: [name for name in names if name.endswith(SUFFIXES)],
    )
    source = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import ferroloop"
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], capture_output=True, text=True, timeout=30
    )
    assert found.returncode == 1
    assert "ferroloop._ferroloop" in found.stderr
    assert "zip" not in found.stderr


FAKETIME = next(
    iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))),
    None,
)


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
def test_a_clock_that_runs_faster():
    """libfaketime replaces libc's functions of time: `epoll_wait`, but not `epoll_pwait2`."""
    source = f"""
    import sys, time
    sys.path[:] = {sys.path!r}
    import asyncio, ferroloop
    ferroloop.run(asyncio.sleep(100.0005))
    """
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in source.splitlines())],
        env={"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+0 x1000"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_everything_names_the_version_of_the_manifest():
    package = tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["package"]
    version = package["version"]
    assert ferroloop.__version__ == version
    for lock in (CHECKOUT / "Cargo.lock", CHECKOUT / "benches/cores/Cargo.lock"):
        crates = tomllib.loads(lock.read_text())["package"]
        assert [crate["version"] for crate in crates if crate["name"] == "ferroloop"] == [version]
    changes = (CHECKOUT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.*)$", changes, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", headings[1])
    page = (CHECKOUT / "docs/EMBEDDING.md").read_text()
    compatible = version.rpartition(".")[0]
    assert f'ferroloop = {{ version = "{compatible}", features = ["embed"] }}' in page
