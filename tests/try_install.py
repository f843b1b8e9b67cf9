#!/usr/bin/env python3
"""Installs ferroloop as the README says in fresh Debian roots that have apt's Rust alone.

    python3 tests/try_install.py [--suite SUITE]... [--profile PROFILE]

For each suite: a virtual environment, `pip install .` in a copy of the checkout and then the file
of the sdist, each followed by an example. A suite whose Rust is too old, and one whose Rust is
hidden, must say so. The packages are unpacked, not configured (see debian_root.py): a link that
their scripts would make is made here. `--profile quick` saves minutes of link-time optimisation.
The machine must be able to have such roots: Debian, and root. Standard library only.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from debian_root import CHECKOUT, UnavailableError, UnpackedRoot

# What the README's line for `pip install .` names.
PACKAGES = ("cargo", "python3-venv")
SUITES = ("trixie", "forky")
# Its Rust is older than rust-version in Cargo.toml.
OLD_SUITE = "bookworm"

# What the user reads if the build cannot start, whatever the version of the tool that says it.
TOO_OLD = ("older than the `2024` edition", "edition2024", "requires rustc 1.85")
NO_RUST = ("Cargo, the Rust package manager, is not installed",)


class FreshRoot(UnpackedRoot):
    """A root with Debian's Rust and Python, and nothing else."""

    def __init__(self, suite: str) -> None:
        super().__init__(CHECKOUT / f"build/root-{suite}-install", suite, PACKAGES)
        self.home = CHECKOUT / "build" / f"install-{suite}"

    def prepare(self) -> None:
        """Make the root unless it is there."""
        super().prepare()
        compiler = self.directory / "usr/bin/cc"
        if not compiler.is_symlink():
            compiler.symlink_to("gcc")

    def run(self, *command: str | Path, **environment: str) -> tuple[int, str, float]:
        """Run a command in the directory `home`; return its status, its output and its seconds."""
        cargo = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo").resolve()
        registry = cargo / "registry"
        registry.mkdir(parents=True, exist_ok=True)
        settings = {"CARGO_HOME": str(cargo), "RUSTC_WRAPPER": ""} | environment
        words = [f"{name}={value}" for name, value in settings.items()]
        script = 'cd "$0" && exec "$@"'
        inside = ("env", *words, "/bin/sh", "-c", script, self.home, *command)
        started = time.monotonic()
        done = subprocess.run(
            self.command(*inside, shared=[registry]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, time.monotonic() - started

    def must(self, *command: str | Path, **environment: str) -> float:
        """Run a command that must succeed; return its seconds."""
        status, output, seconds = self.run(*command, **environment)
        if status:
            raise SystemExit(f"{self.suite}: {command} failed:\n{output}")
        return seconds

    def environment(self) -> Path:
        """A fresh virtual environment in a fresh `home`; return the path of its programs."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        seconds = self.must("python3", "-m", "venv", ".venv")
        print(f"{self.suite}: python3 -m venv .venv: {seconds:.0f} s", flush=True)
        return Path(".venv/bin")

    def checkout(self) -> None:
        """Copy what git knows of the checkout into `home`."""
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True
        )
        for name in filter(None, files.stdout.split("\0")):
            if (CHECKOUT / name).is_file():
                copy = self.home / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(CHECKOUT / name, copy)


def try_out(root: FreshRoot, what: str, package: str, settings: dict[str, str]) -> None:
    """Install a package and run an example on it."""
    programs = Path(".venv/bin")
    pip = (programs / "pip", "install", "--disable-pip-version-check", "--force-reinstall")
    seconds = root.must(*pip, package, **settings)
    print(f"{root.suite}: pip install of {what}: {seconds:.0f} s", flush=True)
    example = CHECKOUT / "examples/chat.py"
    root.must(programs / "python", "-P", "-m", "ferroloop", example)


def try_suite(suite: str, settings: dict[str, str]) -> None:
    """Install from a checkout and from the sdist."""
    root = FreshRoot(suite)
    root.prepare()
    programs = root.environment()
    root.checkout()
    try_out(root, "a checkout", ".", settings)
    root.must(programs / "pip", "install", "--quiet", "--disable-pip-version-check", "maturin")
    root.must(programs / "maturin", "sdist", "--out", "dist")
    (sdist,) = (root.home / "dist").glob("*.tar.gz")
    try_out(root, sdist.name, str(sdist), settings)


def must_say(root: FreshRoot, what: str, texts: Sequence[str], **environment: str) -> None:
    """Check that installation fails, with one of the texts."""
    pip = (Path(".venv/bin/pip"), "install", "--disable-pip-version-check", ".")
    status, output, _ = root.run(*pip, **environment)
    if not status or not any(text in output for text in texts):
        raise SystemExit(f"{root.suite}, {what}: status {status}, none of {texts} in:\n{output}")
    (line, *_) = [line for line in output.splitlines() if any(text in line for text in texts)]
    print(f"{root.suite}, {what}: {line.strip()}", flush=True)


def try_failures() -> None:
    """Check what a user reads whose Rust is too old or missing."""
    root = FreshRoot(OLD_SUITE)
    root.prepare()
    root.environment()
    root.checkout()
    must_say(root, "Rust too old", TOO_OLD)
    # Without the second, maturin downloads a toolchain.
    hidden = {"PATH": "/nowhere", "MATURIN_NO_INSTALL_RUST": "1"}
    must_say(root, "no Rust", NO_RUST, **hidden)


def main() -> int:
    """Try the suites."""
    parser = argparse.ArgumentParser(description="Install in fresh Debian roots.")
    parser.add_argument("--suite", action="append", choices=(*SUITES, OLD_SUITE), default=[])
    parser.add_argument("--profile", help="of Cargo; the package's own is `release`")
    args = parser.parse_args()
    settings = {"MATURIN_PEP517_ARGS": f"--profile {args.profile}"} if args.profile else {}
    try:
        for suite in args.suite or (*SUITES, OLD_SUITE):
            if suite == OLD_SUITE:
                try_failures()
            else:
                try_suite(suite, settings)
    except UnavailableError as error:
        raise SystemExit(f"install: no Debian root: {error}") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
