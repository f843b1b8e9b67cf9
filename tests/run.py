#!/usr/bin/env python3
"""Builds the wheels and runs every test, on two interpreters side by side.

    python3 tests/run.py [--python INTERPRETER]... [--debian-root VERSION]... [--only STEP]...

For each interpreter: the wheel, a fresh virtual environment under build/ with the wheel and
tests/requirements.txt, the Rust tests, pytest, CPython's own asyncio suites with our
loop, Task and Future, and the programs of tests/ecosystem that need no service. Without --python
the interpreters are the oldest and the newest CPython on PATH and among pyenv's versions that have
their `test` package. --debian-root adds Debian's CPython, in a separate root directory (see
debian_root.py), for a version that the machine does not have; the wheel for it is built outside.
--roots-alone leaves out the others. The newest interpreter of the machine gets the release wheel,
the others one that is built without link-time optimisation.

The output of a step is printed when the step ends; until then it is in build/logs.
Standard library only.
"""

import argparse
import concurrent.futures
import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from debian_root import DebianRoot, UnavailableError

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "logs"
VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
STEPS = ("rust", "pytest", "stdlib", "ecosystem")

# A root has no Rust toolchain, and building its packages would take too long.
STEPS_IN_A_ROOT = ("pytest", "stdlib")

# The Debian releases with versions of CPython that the stable release does not have.
DEBIAN_SUITES = {"3.14": "sid", "3.15": "sid"}

# Versions whose JIT compiler is built in but must be requested.
JIT_VERSIONS = ("3.15",)

# What an interpreter must be able to run; it prints its version and its own path.
PROBE = """
import ensurepip, sys, venv, test.test_asyncio, test.support
assert sys.implementation.name == "cpython"
assert getattr(sys, "_is_gil_enabled", lambda: True)()
print("%d.%d" % sys.version_info[:2], sys._base_executable or sys.executable)
"""


def candidates() -> list[str]:
    """Interpreters of the supported versions, the most likely places first."""
    found = []
    homes = [os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"]
    for version in VERSIONS:
        for home in filter(None, homes):
            found += sorted(Path(home).glob(f"versions/{version}.*/bin/python{version}"))
        found += [shutil.which(f"python{version}")]
    return [str(path) for path in [*found, sys.executable] if path]


def probe(interpreter: str) -> tuple[str, str] | None:
    """Version and path of a usable interpreter, None if it is unusable."""
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
            "no CPython 3.11 to 3.15 with venv and its `test` package found "
            "(pyenv's and python.org's have both)"
        )
    versions = sorted(usable, key=lambda version: int(version.partition(".")[2]))
    return {version: usable[version] for version in dict.fromkeys((versions[0], versions[-1]))}


@dataclass(frozen=True)
class Target:
    """An interpreter to test on."""

    version: str
    path: str
    root: DebianRoot | None = None
    is_newest: bool = False

    @property
    def name(self) -> str:
        return f"CPython {self.version}"

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that can run there."""
        return STEPS_IN_A_ROOT if self.root else STEPS

    @property
    def wheel_target(self) -> list[str]:
        """The make target that builds its wheel."""
        # Link-time optimisation takes minutes.
        profile = "WHEEL_PROFILE=" + ("release" if self.is_newest else "quick")
        if self.root:
            return ["wheel-for", f"VERSION={self.version}", profile]
        return ["wheel", f"PYTHON={self.path}", profile]

    @property
    def wheel(self) -> Path:
        (wheel,) = (ROOT / "build" / "wheels" / f"py{self.version}").glob("*.whl")
        return wheel

    def command(self, *command: str | Path) -> list[str]:
        """The command that runs `command` where this interpreter is installed."""
        return self.root.command(*command) if self.root else [str(word) for word in command]


class StepFailedError(Exception):
    """A step that the rest of an interpreter's tests depend on has failed."""


class Run:
    """Runs the steps, continues after failures, and records what failed."""

    def __init__(self, side_by_side: int, loops_in_roots: str) -> None:
        self.failed: list[str] = []
        self.side_by_side = side_by_side
        self.loops_in_roots = loops_in_roots
        self.printing = threading.Lock()

    def step(self, title: str, *command: str | Path, needed: bool = False, **env: str) -> None:
        """Run one command and show its output.

        Raises:
            StepFailedError: it failed, and the remaining steps need it.
        """
        log = LOGS / f"{re.sub('[^A-Za-z0-9.]+', '-', title)}.log"
        with self.printing:
            print(f"\n=== {title}: started", flush=True)
        started = time.monotonic()
        with log.open("wb") as output:
            done = subprocess.run(
                [str(word) for word in command],
                cwd=ROOT,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        seconds = f"{time.monotonic() - started:.0f} s"
        with self.printing:
            print(f"\n=== {title}", flush=True)
            sys.stdout.buffer.write(log.read_bytes())
            if done.returncode:
                self.failed.append(title)
                seconds = f"FAILED with status {done.returncode} after {seconds}"
            print(f"=== {title}: {seconds}", flush=True)
        if done.returncode and needed:
            raise StepFailedError(title)

    def all(self, action: Callable[[Target], None], targets: list[Target]) -> list[Target]:
        """Do `action` for all targets, some in parallel; return those for which it succeeded."""
        with concurrent.futures.ThreadPoolExecutor(self.side_by_side) as threads:
            running = [threads.submit(action, target) for target in targets]
        done = []
        for target, future in zip(targets, running, strict=True):
            with contextlib.suppress(StepFailedError):
                future.result()
                done.append(target)
        return done

    def build(self, target: Target) -> None:
        """Build the wheel. The linker keeps one processor busy per target."""
        self.step(f"{target.name}: build the wheel", "make", *target.wheel_target, needed=True)

    def interpreter(self, target: Target, steps: list[str]) -> None:
        """Run all steps on one interpreter, whose wheel exists."""
        name, version = target.name, target.version
        with self.printing:
            print(f"\n=== {name}: {target.path}", flush=True)
        home = ROOT / "build" / f"test-py{version}"
        python = home / "bin" / "python"
        shutil.rmtree(home, ignore_errors=True)

        def python_step(title: str, *command: str | Path, needed: bool = False) -> None:
            self.step(f"{name}: {title}", *target.command(*command), needed=needed)

        python_step("environment", target.path, "-m", "venv", home, needed=True)
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        python_step("install", *pip, "-r", "tests/requirements.txt", target.wheel, needed=True)
        if "rust" in steps:
            self.step(
                f"{name}: Rust tests",
                *("cargo", "test", "--all-features"),
                # The examples of the documentation do not depend on the interpreter.
                *(() if target.is_newest else ("--lib", "--tests")),
                PYO3_PYTHON=target.path,
                CARGO_TARGET_DIR=f"target/py{version}",
            )
        if "pytest" in steps:
            loops = ("--loops", self.loops_in_roots) if target.root else ()
            python_step("pytest", python, "-m", "pytest", "-p", "no:cacheprovider", *loops)
        if "stdlib" in steps:
            runner = (python, "tests/stdlib/run_cpython.py", "ferroloop", "--task-future")
            expected = ("--expected", "tests/stdlib/expected.txt")
            python_step("CPython's asyncio tests", *runner, *expected)
            if version in JIT_VERSIONS:
                jit = ("env", "PYTHON_JIT=1")
                python_step("CPython's asyncio tests with its JIT", *jit, *runner, *expected)
        if "ecosystem" in steps:
            self.ecosystem(target)

    def ecosystem(self, target: Target) -> None:
        """Run the quick part of tests/ecosystem, in a separate environment: it installs plugins."""
        name = target.name
        home = ROOT / "build" / f"ecosystem-quick-py{target.version}"
        python = home / "bin" / "python"
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        requirements = "tests/ecosystem/requirements-quick.txt"
        fresh = ("--force-reinstall", "--no-deps", target.wheel)
        if not python.exists():
            venv = (target.path, "-m", "venv", home)
            self.step(f"{name}: environment of the programs", *venv, needed=True)
        self.step(f"{name}: install the programs", *pip, "-r", requirements, needed=True)
        self.step(f"{name}: install beside the programs", *pip, *fresh, needed=True)
        self.step(f"{name}: programs", python, "-m", "tests.ecosystem", "--quick")


def debian_root(suite: str) -> DebianRoot:
    """The root for all versions that come from one of Debian's releases."""
    versions = [version for version, other in DEBIAN_SUITES.items() if other == suite]
    return DebianRoot(ROOT / "build" / f"root-{suite}", suite, versions)


def debian_targets(wanted: list[str], may_skip: bool) -> list[Target]:
    """Debian's interpreters of these versions, as far as this machine can install them."""
    targets = []
    for suite in dict.fromkeys(DEBIAN_SUITES[version] for version in wanted):
        versions = [version for version in wanted if DEBIAN_SUITES[version] == suite]
        root = debian_root(suite)
        try:
            root.prepare()
        except UnavailableError as error:
            names = " and ".join(f"CPython {version}" for version in versions)
            text = f"{names}: NOT TESTED, no Debian root: {error}"
            if not may_skip:
                raise SystemExit(text) from None
            print(f"\n=== SKIPPED: {text}\n", flush=True)
            continue
        targets += [Target(version, f"/usr/bin/python{version}", root) for version in versions]
    return targets


def targets_of(args: argparse.Namespace) -> list[Target]:
    """The interpreters that the command line asks for, the slowest first."""
    roots = debian_targets(args.debian_root, args.may_skip)
    local: dict[str, str] = {}
    if args.python:
        found = {path: probe(path) for path in args.python}
        if unusable := [path for path, answer in found.items() if answer is None]:
            raise SystemExit(f"not usable (version, venv or `test` package): {unusable}")
        local = dict(answer for answer in found.values() if answer)
    elif not args.roots_alone:
        local = oldest_and_newest()
    newest = max(local, key=lambda version: int(version.partition(".")[2]), default=None)
    known = [Target(version, path, is_newest=version == newest) for version, path in local.items()]
    return known + [root for root in roots if root.version not in local]


def main() -> int:
    parser = argparse.ArgumentParser(description="Build ferroloop and run all its tests.")
    parser.add_argument("--python", action="append", metavar="INTERPRETER", default=[])
    parser.add_argument("--only", action="append", choices=STEPS, default=[])
    parser.add_argument("--debian-root", action="append", choices=sorted(DEBIAN_SUITES), default=[])
    parser.add_argument("--roots-alone", action="store_true", help="no interpreter but Debian's")
    parser.add_argument(
        "--loops-in-roots",
        default="asyncio,ferroloop",
        help="where pytest runs in Debian's roots: on asyncio it checks the tests themselves",
    )
    parser.add_argument(
        "--may-skip", action="store_true", help="a machine that can have no such root is no failure"
    )
    parser.add_argument(
        "--side-by-side", type=int, metavar="N", default=2, help="interpreters at a time"
    )
    args = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    targets = targets_of(args)
    for target in targets:
        if target.root and (unfit := set(args.only) - set(target.steps)):
            raise SystemExit(f"not in a root: {sorted(unfit)}")
    run = Run(args.side_by_side, args.loops_in_roots)
    try:
        # The wheel for a root is linked against an older system's libraries, which needs Zig.
        tool = "zig" if any(target.root for target in targets) else "bin/maturin"
        run.step("the tool that builds wheels", "make", f"build/maturin/{tool}", needed=True)
        if not args.only or "pytest" in args.only:
            # Before a test in a root looks for them.
            modules = (sys.executable, "tests/extension_modules.py")
            run.step("the extension modules of the tests", *modules, needed=True)
    except StepFailedError:
        targets = []
    built = run.all(run.build, targets)
    run.all(lambda target: run.interpreter(target, args.only or list(target.steps)), built)
    if run.failed:
        print("\nfailed:", *run.failed, sep="\n  ", flush=True)
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
