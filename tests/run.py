#!/usr/bin/env python3
"""Builds the wheel and runs every test on the oldest and the newest CPython present.

    python3 tests/run.py [--python INTERPRETER]... [--only STEP]...
    python3 tests/run.py --debian-root 3.14 [--may-skip] [--only STEP]...

For each interpreter: the release wheel, a fresh virtual environment under build/ with the
wheel and tests/requirements.txt, the Rust tests, pytest, CPython's own asyncio suites with our
loop, Task and Future, and the programs of tests/ecosystem that need no service. Interpreters
are looked for on PATH and among pyenv's versions; only those that have their `test` package
will do. With --debian-root the interpreter is Debian's in a root directory of its own (see
debian_root.py), for a version that the machine has not got: the wheel for it is built outside.
Standard library only.
"""

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from debian_root import DebianRoot, UnavailableError

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
STEPS = ("rust", "pytest", "stdlib", "ecosystem")

# There is no Rust in a root, and its packages have no time to be built.
STEPS_IN_A_ROOT = ("pytest", "stdlib")

# Debian's releases with a version of CPython that its stable one has not got.
DEBIAN_SUITES = {"3.14": "forky"}

# What an interpreter must be able to do; it prints its version and its own path.
PROBE = """
import ensurepip, sys, venv, test.test_asyncio, test.support
assert sys.implementation.name == "cpython"
assert getattr(sys, "_is_gil_enabled", lambda: True)()
print("%d.%d" % sys.version_info[:2], sys._base_executable or sys.executable)
"""


def candidates() -> list[str]:
    """Interpreters of the versions that we support, best known places first."""
    found = []
    homes = [os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"]
    for version in VERSIONS:
        for home in filter(None, homes):
            found += sorted(Path(home).glob(f"versions/{version}.*/bin/python{version}"))
        found += [shutil.which(f"python{version}")]
    return [str(path) for path in [*found, sys.executable] if path]


def probe(interpreter: str) -> tuple[str, str] | None:
    """Version and path of a usable interpreter, None for any other."""
    try:
        done = subprocess.run(
            [interpreter, "-I", "-c", PROBE],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version, path = done.stdout.split(maxsplit=1)
    return (version, path.strip()) if version in VERSIONS else None


def oldest_and_newest() -> dict[str, str]:
    """The interpreters to test on: version to path."""
    usable: dict[str, str] = {}
    for version, path in filter(None, map(probe, candidates())):
        usable.setdefault(version, path)
    if not usable:
        raise SystemExit(
            "no CPython 3.11 to 3.14 with venv and its `test` package found "
            "(pyenv's and python.org's have both)"
        )
    versions = sorted(usable, key=lambda version: int(version.partition(".")[2]))
    return {version: usable[version] for version in dict.fromkeys((versions[0], versions[-1]))}


class Run:
    """Runs the steps, keeps going after failures, and knows what failed."""

    def __init__(self, root: DebianRoot | None = None) -> None:
        self.failed: list[str] = []
        self.root = root

    def python_step(self, title: str, *command: str | Path, needed: bool = False) -> None:
        """A step of the interpreter under test, in its root if it has one."""
        words = self.root.command(*command) if self.root else command
        self.step(title, *words, needed=needed)

    def step(self, title: str, *command: str | Path, needed: bool = False, **env: str) -> None:
        """Run one command with its output shown; a step that the rest needs ends the run."""
        print(f"\n=== {title}", flush=True)
        started = time.monotonic()
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        seconds = f"{time.monotonic() - started:.0f} s"
        if done.returncode:
            self.failed.append(title)
            print(f"=== {title}: FAILED with status {done.returncode} after {seconds}", flush=True)
            if needed:
                raise SystemExit(1)
        else:
            print(f"=== {title}: {seconds}", flush=True)

    def wheels(self, interpreters: dict[str, str]) -> None:
        """Build the wheels side by side: the linker keeps one processor busy for each."""
        self.step("the tool that builds wheels", "make", "build/maturin/bin/maturin", needed=True)
        if self.root:
            targets = [["wheel-for", f"VERSION={version}"] for version in interpreters]
        else:
            targets = [["wheel", f"PYTHON={path}"] for path in interpreters.values()]
        with concurrent.futures.ThreadPoolExecutor() as threads:
            titles = [f"CPython {version}: build the wheel" for version in interpreters]
            steps = [
                threads.submit(self.step, title, "make", *target, needed=True)
                for title, target in zip(titles, targets, strict=True)
            ]
        for step in steps:
            step.result()

    def interpreter(self, version: str, path: str, steps: list[str]) -> None:
        """All steps on one interpreter, whose wheel is there."""
        name = f"CPython {version}"
        print(f"\n=== {name}: {path}", flush=True)
        (wheel,) = (ROOT / "build" / "wheels" / f"py{version}").glob("*.whl")
        home = ROOT / "build" / f"test-py{version}"
        python = home / "bin" / "python"
        shutil.rmtree(home, ignore_errors=True)
        self.python_step(f"{name}: environment", path, "-m", "venv", home, needed=True)
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        self.python_step(
            f"{name}: install", *pip, "-r", "tests/requirements.txt", wheel, needed=True
        )
        if "rust" in steps:
            target = f"target/py{version}"
            self.step(
                f"{name}: Rust tests",
                *("cargo", "test", "--all-features"),
                PYO3_PYTHON=path,
                CARGO_TARGET_DIR=target,
            )
        if "pytest" in steps:
            self.python_step(f"{name}: pytest", python, "-m", "pytest", "-p", "no:cacheprovider")
        if "stdlib" in steps:
            runner = (python, "tests/stdlib/run_cpython.py", "ferroloop", "--task-future")
            self.python_step(
                f"{name}: CPython's asyncio tests",
                *(*runner, "--expected", "tests/stdlib/expected.txt"),
            )
        if "ecosystem" in steps:
            self.ecosystem(name, path, ROOT / "build" / f"ecosystem-quick-py{version}", wheel)

    def ecosystem(self, name: str, path: str, home: Path, wheel: Path) -> None:
        """The quick part of tests/ecosystem, in an environment of its own: it has plugins."""
        python = home / "bin" / "python"
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        requirements = "tests/ecosystem/requirements-quick.txt"
        if not python.exists():
            self.step(f"{name}: environment of the programs", path, "-m", "venv", home, needed=True)
        self.step(f"{name}: install the programs", *pip, "-r", requirements, needed=True)
        self.step(f"{name}: install", *pip, "--force-reinstall", "--no-deps", wheel, needed=True)
        self.step(f"{name}: programs", python, "-m", "tests.ecosystem", "--quick")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build ferroloop and run all its tests.")
    parser.add_argument("--python", action="append", metavar="INTERPRETER", default=[])
    parser.add_argument("--only", action="append", choices=STEPS, default=[])
    parser.add_argument("--debian-root", choices=sorted(DEBIAN_SUITES))
    parser.add_argument(
        "--may-skip", action="store_true", help="a machine that can have no such root is no failure"
    )
    args = parser.parse_args()
    root = None
    if args.debian_root:
        version = args.debian_root
        root = DebianRoot(ROOT / "build" / f"root-{version}", DEBIAN_SUITES[version], version)
        try:
            root.prepare()
        except UnavailableError as error:
            text = f"CPython {version} is NOT TESTED, no Debian root for it: {error}"
            if not args.may_skip:
                raise SystemExit(text) from None
            print(f"\n=== SKIPPED: {text}\n", flush=True)
            return 0
        if unfit := set(args.only) - set(STEPS_IN_A_ROOT):
            raise SystemExit(f"not in a root: {sorted(unfit)}")
        interpreters = {version: f"/usr/bin/python{version}"}
    elif args.python:
        found = {path: probe(path) for path in args.python}
        if unusable := [path for path, answer in found.items() if answer is None]:
            raise SystemExit(f"not usable (version, venv or `test` package): {unusable}")
        interpreters = dict(answer for answer in found.values() if answer)
    else:
        interpreters = oldest_and_newest()
    run = Run(root)
    run.wheels(interpreters)
    for version, path in interpreters.items():
        run.interpreter(version, path, args.only or list(STEPS_IN_A_ROOT if root else STEPS))
    if run.failed:
        print("\nfailed:", *run.failed, sep="\n  ", flush=True)
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
