"""Typing: a typed program passes `mypy --strict` and runs; the stubs match the module."""

import os
import subprocess
import sys
from pathlib import Path

import ferroloop
import pytest

pytest.importorskip("mypy", reason="the debug build's environment has no mypy")

HERE = Path(__file__).parent / "typing"
PROGRAM = HERE / "program.py"


def run(*command, cwd) -> None:
    # The package under test, wherever it was imported from, and nothing else of the checkout.
    package = Path(ferroloop.__file__).resolve().parent.parent
    environment = dict(os.environ)
    if package.name != "site-packages":
        environment |= {"PYTHONPATH": str(package), "MYPYPATH": str(package)}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_typed_program_runs(tmp_path):
    run("-W", "error", PROGRAM, cwd=tmp_path)


@pytest.mark.timeout(300)
def test_a_typed_program_passes_mypy(tmp_path):
    run("-m", "mypy", "--strict", PROGRAM, cwd=tmp_path)


@pytest.mark.timeout(300)
def test_stubs_match_the_module(tmp_path):
    allowed = HERE / "stubtest.txt"
    # Which classes have an incompatible memory layout does not matter to users.
    options = ("--ignore-disjoint-bases", "--ignore-unused-allowlist")
    run("-m", "mypy.stubtest", "ferroloop", "--allowlist", allowed, *options, cwd=tmp_path)
