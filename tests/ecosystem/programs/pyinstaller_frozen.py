"""PyInstaller: a program is frozen with the loop, and the result runs outside the environment."""

import subprocess
import sys
import tempfile
from pathlib import Path

from ..loops import Loop

APPLICATION = Path(__file__).parent.parent / "apps" / "frozen_application.py"


def main(loop: Loop) -> None:
    with tempfile.TemporaryDirectory() as directory:
        options = ["--log-level", "ERROR", "--onedir", "--noconfirm", "--name", "frozen"]
        # Without options for ferroloop: its own hook lists what a scan cannot find.
        frozen = subprocess.run(
            [sys.executable, "-m", "PyInstaller", *options, APPLICATION],
            cwd=directory,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert frozen.returncode == 0, frozen.stdout + frozen.stderr
        done = subprocess.run(
            [Path(directory, "dist", "frozen", "frozen"), loop.name],
            cwd=directory,
            env={},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout == f"{loop.name}\n"
