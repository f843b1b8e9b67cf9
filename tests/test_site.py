"""The documentation site, without Sphinx: `make docs` builds it, which takes too long here."""

import importlib.util
import pkgutil
import re
import sys
from pathlib import Path

import ferroloop
import pytest

ROOT = Path(__file__).parent.parent
SITE = ROOT / "docs" / "site"


def load(name):
    spec = importlib.util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load("build")


def test_every_page_is_in_the_navigation():
    written = {page.relative_to(ROOT) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
    assert written <= set(build.pages())
    assert all((ROOT / page).is_file() for page in build.pages())
    entries = [entry.partition(":")[0] for names in build.NAVIGATION.values() for entry in names]
    assert {f"docs/site/{page.stem}" for page in SITE.glob("*.rst")} <= set(entries)
    assert len(entries) == len(set(entries))


def test_staged_pages_have_their_links(tmp_path):
    build.stage(tmp_path)
    assert "docs/GUIDE\n" in (tmp_path / "index.md").read_text()
    staged = list(tmp_path.rglob("*.md"))
    assert len(staged) == len(build.pages())
    for page in staged:
        for target in build.LINK.findall(page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), (page, target)


def test_links_show_titles():
    guide = build.with_titles(Path("docs/GUIDE.md"))
    assert "[Coming from asyncio or uvloop](MIGRATING.md)" in guide
    assert "[MIGRATING.md]" not in guide
    assert "[Tests with pytest](#tests-with-pytest)" in guide


def test_the_reference_has_everything_public():
    text = (SITE / "python.rst").read_text()
    documented = set(re.findall(r":: (ferroloop\.?[\w.]*)", text))
    names = {f"ferroloop.{name}" for name in ferroloop.__all__ if name != "__version__"}
    assert names <= documented
    # What is in these modules is documented under the package's name.
    internal = {"call_graph", "connecting", "diagnostics", "loop", "policy", "runner"}
    internal |= {"subprocesses", "thread_pool", "transports"}
    modules = {info.name for info in pkgutil.iter_modules(ferroloop.__path__)}
    public = {f"ferroloop.{name}" for name in modules - internal if not name.startswith("_")}
    assert public <= documented


def test_signatures_come_from_the_stub():
    native_signatures = load("native_signatures")
    stub = Path(ferroloop.__file__).parent / native_signatures.STUB
    signatures = native_signatures.read_stub(stub.read_text())
    assert signatures["EventLoop.report_slow_callbacks"] == ("(enabled: bool=True, /)", "None")
    assert ("add_to_awaited_by" in signatures) == (sys.version_info >= (3, 14))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="b.html#here">', None),
        ('<a href="b.html#there">', "index.html: b.html#there leads nowhere"),
        ('<a href="#self" id="self">', None),
        ('<a href="c.html">', "index.html: c.html leads nowhere"),
        ('<a href="https://example.org/">', None),
        ('<img src="none.svg">', "index.html: none.svg leads nowhere"),
        (
            '<link href="https://example.org/font.css">',
            "index.html: loads https://example.org/font.css",
        ),
        ('<script src="//example.org/x.js">', "index.html: loads //example.org/x.js"),
        ('<link href="site.css?v=1">', None),
    ],
)
def test_faults_of_a_site(tmp_path, body, fault):
    (tmp_path / "index.html").write_text(body)
    (tmp_path / "b.html").write_text('<h1 id="here">')
    (tmp_path / "site.css").touch()
    (tmp_path / "rust").mkdir()
    (tmp_path / "rust" / "index.html").write_text('<a href="missing.html">')
    assert list(build.faults(tmp_path)) == ([fault] if fault else [])
