"""Builds the documentation site: `make docs`.

    python docs/site/build.py DIRECTORY [--rustdoc DIRECTORY]

The pages are the repository's own Markdown files. They are copied to DIRECTORY/source with their
paths, so that their links work as they do on GitHub; README.md is the first page. Sphinx makes
DIRECTORY/html of them and of this folder's `*.rst`, and fails at a warning, such as a link that
leads nowhere. The links of the result are checked again, rustdoc's pages included.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SITE = Path(__file__).resolve().parent
ROOT = SITE.parent.parent

# The navigation: every page, by its path without the suffix, and its title if it needs another one.
NAVIGATION = {
    "Use": ("docs/GUIDE", "docs/MIGRATING", "docs/COMPATIBILITY", "docs/ECOSYSTEM"),
    "Deploy": ("docs/SERVERS", "docs/CORES"),
    "Operate": ("docs/DIAGNOSTICS", "docs/TUNING"),
    "Reference": ("docs/site/python", "docs/FREE-THREADING: Free threading"),
    "From Rust": ("docs/EMBEDDING", "docs/site/rust", "compat/README: pyo3-async-runtimes"),
    "Benchmarks": (
        "benches/RESULTS: Results on CPython 3.13",
        "benches/cpython-3.14/RESULTS: Results on CPython 3.14",
        "benches/cpython-3.15/RESULTS: Results on CPython 3.15",
        "benches/README: How they are measured",
    ),
    "Development": (
        "CHANGELOG",
        "docs/ARCHITECTURE",
        "CONTRIBUTING",
        "SECURITY",
        "tests/README",
        "tests/stdlib/README: CPython's suites",
        "tests/ecosystem/README: Real programs",
        "tests/upstream/README: Suites of other projects",
        "tests/refused/README: Failing system calls",
        "fuzz/README: Random input",
    ),
}
# A link whose text is the path of a page: the site shows the title instead.
PATH_LINK = re.compile(r"\[[\w./-]+\.md\]\(([^)\s#]+\.md)([^)\s]*)\)")
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


def pages() -> list[Path]:
    """The Markdown files of the navigation, and the first page, relative to the repository."""
    entries = [entry for section in NAVIGATION.values() for entry in section]
    names = [entry.partition(":")[0] for entry in entries]
    found = [Path(f"{name}.md") for name in names if not (ROOT / f"{name}.rst").exists()]
    return [Path("README.md"), *found]


def linked_files(page: Path) -> Iterator[Path]:
    """The files of the repository that a page links to, relative to the repository."""
    for target in LINK.findall((ROOT / page).read_text()):
        if not urlsplit(target).scheme:
            path = (ROOT / page.parent / target).resolve()
            if path.is_file():
                yield path.relative_to(ROOT)


def with_titles(page: Path) -> str:
    """The text of a page, with the titles of other pages in place of their paths."""

    def titled(found: re.Match[str]) -> str:
        target = ROOT / page.parent / found[1]
        title = target.read_text().partition("\n")[0].removeprefix("# ")
        return f"[{title}]({found[1]}{found[2]})"

    return PATH_LINK.sub(titled, (ROOT / page).read_text())


def contents() -> str:
    """The navigation as Sphinx reads it."""
    blocks = []
    for caption, entries in NAVIGATION.items():
        lines = [re.sub(r"(.*): (.*)", r"\2 <\1>", entry) for entry in entries]
        head = ["```{toctree}", f":caption: {caption}", ":hidden:", ""]
        blocks.append("\n".join([*head, *lines, "```\n"]))
    return "\n".join(blocks)


def stage(source: Path) -> None:
    """Copy everything that the site is made of to `source`."""
    shutil.rmtree(source, ignore_errors=True)
    files = {*pages(), *(page.relative_to(ROOT) for page in SITE.glob("*.rst"))}
    files |= {file for page in pages() for file in linked_files(page)}
    for file in files:
        place = source / file
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            place.write_text(with_titles(file))
        else:
            shutil.copyfile(ROOT / file, place)
    first = (source / "README.md").rename(source / "index.md")
    first.write_text(f"{first.read_text()}\n{contents()}")


class _Links(HTMLParser):
    """The links, the names of places, and the resources of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.names: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.names.add(value)
            elif name == "href" and tag == "a" and value:
                self.links.append(value)
            elif name in ("src", "href") and value:
                self.resources.append(value)


def faults(html: Path) -> Iterator[str]:
    """The links of the site that lead nowhere, and what its pages load from other hosts."""
    known: dict[Path, set[str] | None] = {}

    def names_in(path: Path) -> set[str] | None:
        """The places of a page; None if the file does not exist."""
        if path not in known:
            known[path] = set() if path.is_file() else None
            if path.is_file() and path.suffix == ".html":
                known[path] = _Links(path).names
        return known[path]

    for page in sorted(html.rglob("*.html")):
        if page.is_relative_to(html / "rust"):
            continue  # rustdoc checks its own links
        found = _Links(page)
        where = page.relative_to(html)
        for link in [*found.links, *found.resources]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in found.resources:
                    yield f"{where}: loads {link}"
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            names = names_in(path)
            fragment = unquote(parts.fragment)
            # Scripts of the theme make the places of its own pages.
            if names is None or (fragment and path.suffix == ".html" and fragment not in names):
                yield f"{where}: {link} leads nowhere"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rustdoc", type=Path, help="what `cargo doc` has made")
    options = parser.parse_args()
    source, html = options.directory / "source", options.directory / "html"
    stage(source)
    shutil.rmtree(html, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    command += ["--fresh-env", "--conf-dir", str(SITE)]
    subprocess.run([*command, str(source), str(html)], check=True)
    if options.rustdoc:
        shutil.copytree(options.rustdoc, html / "rust")
    wrong = list(faults(html))
    print("\n".join(wrong) or f"{html}/index.html")
    return len(wrong) > 0


if __name__ == "__main__":
    sys.exit(main())
