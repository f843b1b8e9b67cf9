"""Builds Rust code for the running interpreter, in the directory that everything shares."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .. import extension_modules

ROOT = Path(__file__).parent.parent.parent
TARGET = ROOT / "target" / f"py{sys.version_info[0]}.{sys.version_info[1]}"
# The same path as in the rest of the build: a different one would trigger a full rebuild.
PYTHON = sys._base_executable
ENVIRONMENT = dict(os.environ, PYO3_PYTHON=PYTHON, CARGO_TARGET_DIR=str(TARGET))

BUILDING = 900
"""Seconds that a first build may take."""

ONE_VERSION = (3, 13)
"""The version of Python for which everything is built: some of it takes long to build."""


def skip_without_cargo() -> None:
    """Skip the test if there is no Rust."""
    if shutil.which("cargo") is None:
        pytest.skip("no Rust to build it with")


def skip_but_on_one_version() -> None:
    """Skip the test if it is for another version of Python."""
    if sys.version_info[:2] != ONE_VERSION:
        pytest.skip("built for one version of Python")


def cargo(*arguments: str, directory: Path = ROOT) -> None:
    """Run cargo."""
    skip_without_cargo()
    subprocess.run(["cargo", *arguments], cwd=directory, env=ENVIRONMENT, check=True)


def extension_module(module: str) -> Path:
    """The path of one of `extension_modules.MODULES`, built if there is Rust."""
    if shutil.which("cargo"):
        return extension_modules.build(module)
    # In a Debian root: run.py has built it.
    built = extension_modules.path(module)
    if not built.exists():
        pytest.skip("no Rust to build it with")
    return built
