#!/usr/bin/env python3
"""Check that the oldest Rust that is supported, `rust-version` in Cargo.toml, compiles the crate.

    python3 tests/oldest_rust.py

Uses that version if rustc is it or rustup has it; otherwise Debian's package of it, in a root that
debian_root.py makes. If that is impossible as well, it says so and succeeds.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from debian_root import CHECKOUT, UnavailableError, UnpackedRoot

# The Debian release that packages the version.
SUITE = "trixie"
# PyO3 needs the version of an interpreter, but not the interpreter.
SETTINGS = ("PYO3_NO_PYTHON=1", "PYO3_CROSS_PYTHON_VERSION=3.15")
# The crate itself: what only tests and benchmarks use may need a newer Rust.
CHECK = ("cargo", "check", "--quiet", "--locked", "--all-features")

Command = Callable[..., list[str]]


def supported() -> str:
    """The version, as in ``1.85``."""
    return tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["package"]["rust-version"]


def output(*command: str) -> str:
    """What the command prints; nothing if it fails or does not exist."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def local(version: str) -> list[str] | None:
    """What goes before a command to use this version; None if the machine does not have it."""
    if output("rustc", "--version").startswith(f"rustc {version}."):
        return []
    for line in output("rustup", "toolchain", "list").splitlines():
        name = line.split()[0]
        if re.match(rf"{re.escape(version)}[.-]", name):
            return ["rustup", "run", name]
    return None


def in_root(version: str) -> Command:
    """A function from a command to the one that runs it in a Debian root with this version.

    Raises:
        UnavailableError: the machine cannot have such a root.
    """
    root = UnpackedRoot(CHECKOUT / f"build/root-{SUITE}-rust", SUITE, ["cargo", "libc6-dev"])
    root.prepare()
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo").resolve()
    # The crates that are downloaded already. The rest of Cargo's home is for other tools.
    registry = home / "registry"
    registry.mkdir(parents=True, exist_ok=True)

    def command(*words: str) -> list[str]:
        settings = (f"CARGO_HOME={home}", "RUSTFLAGS=-Clinker=gcc", "RUSTC_WRAPPER=")
        return root.command("env", *settings, *words, shared=[registry])

    found = subprocess.run(command("rustc", "--version"), capture_output=True, text=True)
    if not found.stdout.startswith(f"rustc {version}."):
        raise SystemExit(f"Debian {SUITE} has {found.stdout or found.stderr}, not {version}")
    return command


def toolchain(version: str) -> Command:
    """A function from a command to the one that runs it with this version of Rust.

    Raises:
        UnavailableError: the machine neither has this version nor can have such a root.
    """
    prefix = local(version)
    if prefix is None:
        return in_root(version)
    return lambda *words: [*prefix, *words]


def main() -> int:
    """Check; return 1 if the crate does not compile."""
    version = supported()
    try:
        command = toolchain(version)
    except UnavailableError as error:
        text = f"no such toolchain, and no Debian root: {error}"
        print(f"\n=== SKIPPED: Rust {version}: NOT CHECKED, {text}\n", flush=True)
        return 0
    check = command("env", *SETTINGS, *CHECK, "--target-dir", "target/msrv")
    if subprocess.run(check, cwd=CHECKOUT, check=False).returncode:
        print(f"Rust {version} does not compile the crate", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
