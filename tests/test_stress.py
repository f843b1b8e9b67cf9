"""A few seconds of the stress program, for each kind of connection: see tests/stress."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .stress.traffic import KINDS

ROOT = Path(__file__).parent.parent


@pytest.mark.mode("plain")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_every_connection_ends_and_every_byte_arrives(flavour, kind):
    options = ["--loop", flavour.name, "--kind", kind, "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress", *options, "--seconds", "3", "--connections", "200"],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"\n{kind} ") >= 5
