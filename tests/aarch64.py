#!/usr/bin/env python3
"""Cross-builds the wheel for aarch64 on x86-64, and tests it under emulation.

    python3 tests/aarch64.py [--profile PROFILE] [--only STEP]... [PYTEST ARGUMENTS...]

Debian's packages contain all that is needed: the cross compilers and the emulator are in one root
directory (see debian_root.py), CPython for aarch64 is in another. The steps:

* wheel: maturin builds it, with Rust's and C's cross compilers.
* rust: the unit tests of the modules without Python.
* programs: the programs of examples/, and the server and client of examples/demo.
* parity: tests of tests/parity on ferroloop, by default those of PARITY.

The emulator is registered with the kernel in a namespace of its own, in which alone programs for
aarch64 can be started; this needs Linux 6.7. The machine must be able to have such roots: Debian,
and root. Standard library only.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from debian_root import CHECKOUT, UnavailableError, UnpackedRoot
from try_wheels import Environment

SUITE = "sid"
PYTHON = "3.14"
TARGET = "aarch64-unknown-linux-gnu"
MATURIN = CHECKOUT / "build/maturin/bin"
HOME = CHECKOUT / "build/aarch64"
WHEELS, PACKAGES = HOME / "wheels", HOME / "packages"
STEPS = ("wheel", "rust", "programs", "parity")

# What the emulator may do differently from a kernel: memory, threads, signals, system calls. And
# what the module learns about the interpreter at import: offsets, the thread's structure. Not
# test_subprocess.py: under the emulator posix_spawn() does not fail if the program does not exist,
# on asyncio neither, and the namespace has one user.
PARITY = (
    *("probed_offsets", "task_tools", "python_314", "types"),
    *("futures", "tasks", "eager_tasks", "contexts", "scheduling", "handles"),
    *("threadsafe", "executor", "signals"),
    *("sock_operations", "tcp", "streams", "datagrams", "pipes", "tls"),
)

# The head of an executable or a library for aarch64, and which of its bits count.
MAGIC = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00\xb7\x00"
MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"


class CrossRoot(UnpackedRoot):
    """A root of this machine's architecture with compilers for aarch64, and the emulator."""

    def __init__(self) -> None:
        compilers = ("cargo", "libstd-rust-dev:arm64", "gcc-aarch64-linux-gnu", "libc6-dev:arm64")
        directory = CHECKOUT / f"build/root-{SUITE}-cross"
        super().__init__(directory, SUITE, [*compilers, "qemu-user"], ["amd64", "arm64"])
        self.emulator = self.directory / "usr/bin/qemu-aarch64"

    def build(self, *command: str | Path) -> list[str]:
        """The command that runs a cross build in it."""
        home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo").resolve()
        # The crates that are downloaded already. The rest of Cargo's home is for other tools.
        registry = home / "registry"
        registry.mkdir(parents=True, exist_ok=True)
        settings = {
            "CARGO_HOME": home,
            "CARGO_TARGET_DIR": "target/aarch64",
            "CARGO_BUILD_TARGET": TARGET,
            # The packages are not configured, so that there is no `cc`.
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER": "x86_64-linux-gnu-gcc",
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER": "aarch64-linux-gnu-gcc",
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER": (
                "qemu-aarch64 -L /usr/aarch64-linux-gnu"
            ),
            "RUSTC_WRAPPER": "",
        }
        words = (f"{name}={value}" for name, value in settings.items())
        return self.command("env", *words, *command, shared=[registry])


class EmulatedRoot(UnpackedRoot):
    """A root of aarch64, whose programs run under an emulator.

    Args:
        emulator: the path of the emulator, a static program.
    """

    def __init__(self, emulator: Path) -> None:
        packages = (f"python{PYTHON}", f"python{PYTHON}-venv", f"libpython{PYTHON}-testsuite")
        directory = CHECKOUT / f"build/root-{SUITE}-arm64"
        super().__init__(directory, SUITE, [*packages, "bash", "debianutils", "netbase"], ["arm64"])
        self.emulator = emulator

    def prepare(self) -> None:
        """Make the root unless it is there."""
        super().prepare()
        # A script of a package creates it.
        (self.directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")

    def command(self, *command: str | Path, shared: Sequence[Path] = ()) -> list[str]:
        """The command that runs `command` in the root, under the emulator."""
        # The kernel opens the emulator when it is registered (F), so that it need not be in the
        # root, and passes on the name by which the program was started (P).
        entry = f":aarch64:M::{MAGIC}:{MASK}:{self.emulator}:FP"
        script = f"""
            set -e
            mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
            printf %s {shlex.quote(entry)} > /proc/sys/fs/binfmt_misc/register
            exec "$@"
        """
        own = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork")
        return [*own, "sh", "-c", script, "sh", *super().command(*command, shared=shared)]


class Emulated(Environment):
    """CPython of the emulated root with the packages that are unpacked for it."""

    # No comparison: it takes minutes.
    demo = ("--loop", "ferroloop")

    def __init__(self, root: EmulatedRoot) -> None:
        self.root = root
        settings = (f"PYTHONPATH={PACKAGES}", "PROGRAM_SECONDS=300")
        self.python = ("env", *settings, f"/usr/bin/python{PYTHON}")


def run(*command: str | Path) -> None:
    """Run a command; end with its status if it fails."""
    if status := subprocess.run(command, cwd=CHECKOUT, check=False).returncode:
        sys.exit(status)


def build_wheel(cross: CrossRoot, profile: str) -> None:
    """Build the wheel, and unpack it and what the tests import.

    The machine's pip does so, since it takes minutes under the emulator.
    """
    shutil.rmtree(HOME, ignore_errors=True)
    wheel = ("build", "--quiet", "--profile", profile, "--target", TARGET, "--out", WHEELS)
    # The C library of the root is newer than any `manylinux` allows.
    exactly = ("--interpreter", f"python{PYTHON}", "--compatibility", "linux")
    run(*cross.build(MATURIN / "maturin", *wheel, *exactly))
    platforms = ("linux", "manylinux2014", "manylinux_2_28", "manylinux_2_34")
    run(
        *(MATURIN / "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--target", PACKAGES, "--python-version", PYTHON, "--only-binary", ":all:"),
        *(f"--platform={platform}_aarch64" for platform in platforms),
        *("--requirement", "tests/requirements-debug.txt", "aiohttp", *WHEELS.glob("*.whl")),
    )


def main() -> int:
    """Do the steps."""
    parser = argparse.ArgumentParser(description="Build and test the wheel for aarch64.")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--only", action="append", choices=STEPS, default=[])
    args, rest = parser.parse_known_args()
    cross = CrossRoot()
    emulated = EmulatedRoot(cross.emulator)
    try:
        cross.prepare()
        emulated.prepare()
    except UnavailableError as error:
        raise SystemExit(f"aarch64: no Debian root: {error}") from None
    there = Emulated(emulated)
    tests = rest or [f"tests/parity/test_{name}.py" for name in PARITY]
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--loops", "ferroloop")
    crate = ("--manifest-path", "tests/without_python/Cargo.toml")
    # The kernel reports the system calls of the emulator, which have other numbers.
    unlike = ("--", "--skip", "a_thread_that_waits_is_seen_in_its_call")
    steps: dict[str, Callable[[], None]] = {
        "wheel": lambda: build_wheel(cross, args.profile),
        "rust": lambda: run(*cross.build("cargo", "test", "--quiet", "--locked", *crate, *unlike)),
        "programs": lambda: there.run_programs("aarch64"),
        "parity": lambda: run(
            *emulated.command(*there.python, *pytest, "--timeout", "600", *tests)
        ),
    }
    for step in args.only or STEPS:
        started = time.monotonic()
        print(f"aarch64, {step}: started", flush=True)
        steps[step]()
        print(f"aarch64, {step}: {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
