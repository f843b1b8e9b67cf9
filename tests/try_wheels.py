#!/usr/bin/env python3
"""Tries the wheels and the sdist of a directory, each in a clean environment.

    python3 tests/try_wheels.py DIRECTORY

For each wheel: an environment of the interpreter that it is for (in a Debian root, see
debian_root.py, if the machine does not have that version) with the wheel and aiohttp. The
programs of examples/ run in it, and then the server and client of examples/demo. The sdist is
installed by pip alone, from a directory outside the checkout. Standard library only.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from check_dist import FREE_THREADED
from debian_root import DebianRoot, UnavailableError
from run import DEBIAN_SUITES, ROOT, candidates, debian_root, probe

# What must be importable, from a file of the wheel and not from the checkout.
IDENTITY = """
import ferroloop, pathlib, sys
home = pathlib.Path(ferroloop.__file__)
assert home.is_relative_to(sys.prefix), home
assert (home.parent / "py.typed").is_file() and (home.parent / "_ferroloop.pyi").is_file()
print("ferroloop", ferroloop.__version__, "from", home.parent)
"""


class Environment:
    """A clean virtual environment of one interpreter, in a Debian root if necessary."""

    demo: tuple[str, ...] = ("--rounds", "1")

    def __init__(self, name: str, interpreter: str, root: DebianRoot | None) -> None:
        self.home = ROOT / "build" / f"wheels-{name}"
        self.root = root
        self.python: tuple[str | Path, ...] = (self.home / "bin" / "python",)
        shutil.rmtree(self.home, ignore_errors=True)
        self.run(interpreter, "-m", "venv", self.home)

    def run(self, *command: str | Path, status: int = 0) -> None:
        """Run a command; its output is shown if it exits with the wrong status."""
        words = [str(word) for word in command]
        done = subprocess.run(
            self.root.command(*words) if self.root else words,
            cwd=tempfile.gettempdir(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != status:
            raise SystemExit(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}")

    def try_out(self, package: Path) -> None:
        """Install a wheel or an sdist and run programs on it."""
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        self.run(*self.python, *pip, package, "aiohttp")
        self.run(*self.python, "-I", "-c", IDENTITY)
        self.run_programs(package.name)

    def run_programs(self, name: str) -> None:
        """Run the examples and the demo on what is installed."""
        examples = sorted((ROOT / "examples").glob("*.py"))
        for example in examples:
            status = 1 if example.stem == "errors" else 0
            self.run(*self.python, "-P", "-m", "ferroloop", example, status=status)
        self.run(*self.python, ROOT / "examples" / "demo", *self.demo)
        print(f"{name}: {len(examples)} examples and the demo ran", flush=True)


def interpreters() -> dict[str, str]:
    """The interpreters of this machine: version to path."""
    usable: dict[str, str] = {}
    for version, path in filter(None, map(probe, candidates())):
        usable.setdefault(version, path)
    for version in FREE_THREADED:
        if path := shutil.which(f"python{version}"):
            usable[version] = path
    return usable


def in_root(version: str) -> Callable[[], tuple[str, DebianRoot]]:
    """The location of an interpreter that exists only in a Debian root."""

    def make() -> tuple[str, DebianRoot]:
        if version not in DEBIAN_SUITES:
            raise UnavailableError(f"no CPython {version}")
        root = debian_root(DEBIAN_SUITES[version])
        root.prepare()
        return f"/usr/bin/python{version}", root

    return make


def main() -> int:
    """Try all of them; return 1 if any could not be tried."""
    parser = argparse.ArgumentParser(description="Try wheels and the sdist.")
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory.resolve()
    here, untried = interpreters(), 0
    wheels, sdists = sorted(directory.glob("*.whl")), sorted(directory.glob("*.tar.gz"))
    if not wheels or not sdists:
        raise SystemExit(f"{directory} lacks wheels or the sdist: `make wheels` first")
    for wheel in wheels:
        found = re.search(r"-cp3(\d+)-cp3(\1t?)-", wheel.name)
        if found is None:
            raise SystemExit(f"{wheel.name} is for no CPython that we know")
        version = f"3.{found[2]}"
        try:
            python, root = (here[version], None) if version in here else in_root(version)()
        except UnavailableError as error:
            print(f"{wheel.name}: NOT TRIED, {error}", flush=True)
            # No Debian release has an interpreter without a GIL.
            untried += not version.endswith("t")
            continue
        Environment(version, python, root).try_out(wheel)
    for sdist in sdists:
        with_gil = (item for item in here.items() if item[0] not in FREE_THREADED)
        version, python = max(with_gil, key=lambda item: int(item[0][2:]))
        Environment(f"sdist-{version}", python, None).try_out(sdist)
    return int(untried > 0)


if __name__ == "__main__":
    sys.exit(main())
