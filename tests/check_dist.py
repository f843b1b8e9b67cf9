#!/usr/bin/env python3
"""Checks the files of a release without installing them; try_wheels.py does that.

    python3 tests/check_dist.py DIRECTORY

There must be one sdist and, for each platform of which there is a wheel, one for each supported
CPython, all of the version in Cargo.toml. Each wheel is consistent with the platform in its name
and contains the list of its crates (SBOM). The sdist contains what is needed to build it. Needs the
packages of requirements-release.txt.
"""

import argparse
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent

# Builds of CPython without a GIL, for which there are wheels too.
FREE_THREADED = ("3.14t", "3.15t")

# What an sdist that can be built contains, besides the sources.
NEEDED_TO_BUILD = (
    *("Cargo.toml", "Cargo.lock", ".cargo/config.toml", "build.rs"),
    *("pyproject.toml", "PKG-INFO"),
)
# What it contains besides.
DIRECTORIES = ("src", "include", "python", "docs")
DOCUMENTS = ("LICENSE", "README.md")


def version() -> str:
    """The version of the crate, which is that of the Python package."""
    return tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]


def supported() -> list[str]:
    """The versions of CPython among the classifiers, and the builds without a GIL."""
    text = (ROOT / "pyproject.toml").read_text()
    classifiers = tomllib.loads(text)["project"]["classifiers"]
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", it) for it in classifiers]
    return [match[1] for match in found if match] + list(FREE_THREADED)


def locked() -> set[tuple[str, str]]:
    """Name and version of each crate in Cargo.lock."""
    crates = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    return {(crate["name"], crate["version"]) for crate in crates}


def names(wheels: Sequence[str], sdists: Sequence[str]) -> Iterator[str]:
    """What is wrong with the names of the files."""
    release = f"ferroloop-{version()}"
    if list(sdists) != [f"{release}.tar.gz"]:
        yield f"the sdists are {list(sdists)}, not {release}.tar.gz"
    if foreign := [name for name in wheels if not name.startswith(f"{release}-")]:
        yield f"not of version {version()}: {foreign}"
    if not wheels:
        yield "no wheel"
    tags = {f"cp{python.replace('.', '')}" for python in supported()}
    found: dict[str, set[str]] = {}
    for name in wheels:
        _, _, _, python, platform = name.removesuffix(".whl").split("-")
        found.setdefault(platform, set()).add(python)
    for platform, pythons in found.items():
        if missing := tags - pythons:
            yield f"no wheel of {platform} for {sorted(missing)}"


def materials(wheel: Path) -> Iterator[str]:
    """What is wrong with the wheel's list of crates."""
    with zipfile.ZipFile(wheel) as archive:
        lists = [name for name in archive.namelist() if ".dist-info/sboms/" in name]
        documents = [json.loads(archive.read(name)) for name in lists]
    own = [it for it in documents if it["metadata"]["component"]["name"] == "ferroloop"]
    if len(own) != 1:
        yield f"{wheel.name} has {len(own)} lists of the crates: {lists}"
        return
    if (found := own[0]["metadata"]["component"]["version"]) != version():
        yield f"{wheel.name}: the list of crates is that of version {found}"
    crates = {(it["name"], it["version"]) for it in own[0]["components"]}
    if "pyo3" not in {name for name, _ in crates}:
        yield f"{wheel.name}: the list of crates lacks PyO3"
    if unknown := crates - locked():
        yield f"{wheel.name} lists crates that are not in Cargo.lock: {sorted(unknown)}"


def contents(sdist: Path) -> Iterator[str]:
    """What the sdist lacks, and what it should not have."""
    with tarfile.open(sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    sources = {f"src/{path.relative_to(ROOT / 'src')}" for path in (ROOT / "src").rglob("*.rs")}
    if missing := ({*NEEDED_TO_BUILD} | sources) - found:
        yield f"{sdist.name} lacks {sorted(missing)}"
    known = {line.partition("/")[0] for line in (*NEEDED_TO_BUILD, *DIRECTORIES, *DOCUMENTS)}
    if foreign := {name.partition("/")[0] for name in found} - known:
        yield f"{sdist.name} contains {sorted(foreign)}"


def tool(*command: str | Path) -> tuple[int, str]:
    """The status and the output of a program of this environment."""
    program, *arguments = map(str, command)
    done = subprocess.run(
        [str(TOOLS / program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def platform(wheel: Path) -> Iterator[str]:
    """Whether the platform in the wheel's name is what its symbols need."""
    status, output = tool("auditwheel", "show", wheel)
    text = " ".join(output.split())
    found = re.search(r'consistent with the following platform tag: "(\w+)"', text)
    if status or found is None or found[1] not in wheel.stem.split("-")[-1].split("."):
        yield f"auditwheel show {wheel.name}: {output}"
    else:
        print(f"{wheel.name}: {found[1]}, {wheel.stat().st_size / 1e6:.1f} MB")


def problems(directory: Path) -> Iterator[str]:
    """All that is wrong."""
    wheels, sdists = sorted(directory.glob("*.whl")), sorted(directory.glob("*.tar.gz"))
    yield from names([path.name for path in wheels], [path.name for path in sdists])
    for command in (
        ("twine", "--no-color", "check", "--strict", *wheels, *sdists),
        ("check-wheel-contents", *wheels),
    ):
        status, output = tool(*command)
        if status:
            yield f"{command[0]}: {output}"
    for wheel in wheels:
        yield from materials(wheel)
        # auditwheel knows those of Linux alone.
        if "linux" in wheel.name:
            yield from platform(wheel)
    for sdist in sdists:
        yield from contents(sdist)


def main() -> int:
    """Check all; return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description="Check the files of a release.")
    parser.add_argument("directory", type=Path)
    found = list(problems(parser.parse_args().directory))
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
