#!/usr/bin/env python3
"""Builds the extension modules of the tests, once for all versions of Python.

    python3 tests/extension_modules.py

They use Python's stable ABI, as many published modules do, so that each is built once, and also
runs where there is no Rust: in a Debian root. test_embedding_page.py builds one for a single
version. A free-threaded Python has no stable ABI before 3.15: there they are built for the
interpreter that runs this. Standard library only.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
TARGET = ROOT / "target" / ("extensions-free-threaded" if WITHOUT_GIL else "extensions")
# PyO3 asks no interpreter, and links to no libpython; debug information is of no use here.
SETTINGS = {
    **({"PYO3_PYTHON": sys.executable} if WITHOUT_GIL else {"PYO3_NO_PYTHON": "1"}),
    "PYO3_BUILD_EXTENSION_MODULE": "1",
    "CARGO_TARGET_DIR": str(TARGET),
    "CARGO_PROFILE_DEV_DEBUG": "0",
}
# Directories, and the features to build them with.
MODULES = {
    "function": ("examples/rust_function",),
    "cases": ("tests/rust/extension",),
    "older_function": ("tests/rust/older_pyo3",),
    "old_cases": ("tests/rust/old_extension",),
    "ported": ("tests/rust/ported",),
    "original": ("tests/rust/ported", "original"),
}


def path(module: str) -> Path:
    """Where a module is when it is built."""
    return TARGET / f"{module}.so"


def build(module: str) -> Path:
    """Build a module; its path.

    Raises:
        CalledProcessError: it does not compile.
    """
    directory, *features = MODULES[module]
    crate = ROOT / directory
    wanted = ",".join([*([] if WITHOUT_GIL else ["pyo3/abi3-py311"]), *features])
    command = ["cargo", "build", "--quiet", "--locked", "--features", wanted]
    name = re.search(r'^name = "(\w+)"', (crate / "Cargo.toml").read_text(), re.MULTILINE)[1]
    TARGET.mkdir(parents=True, exist_ok=True)
    new = TARGET / f"{module}.new"
    # Several interpreters are tested at the same time, and both builds of one crate have the same
    # name until they are copied.
    with (TARGET / "extension_modules.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(command, cwd=crate, env=os.environ | SETTINGS, check=True)
        shutil.copy(TARGET / "debug" / f"lib{name}.so", new)
        # Replaced and not overwritten: another process may have loaded the old file.
        return new.rename(path(module))


if __name__ == "__main__":
    for each in MODULES:
        build(each)
