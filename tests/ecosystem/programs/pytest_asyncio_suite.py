"""pytest-asyncio: fixtures, shared loops, parametrised tests; the loop comes from its hook."""

import os
import subprocess
import sys
from pathlib import Path

from ..loops import Loop
from ..servers import ROOT

SUITE = Path(__file__).parent.parent / "apps" / "asyncio_suite.py"


def main(loop: Loop) -> None:
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-W", "error", "-o"]
    options += ["asyncio_default_fixture_loop_scope=function"]
    # The suite is a plugin, too: it defines the hook.
    options += ["-p", "tests.ecosystem.apps.asyncio_suite"]
    options += ["--confcutdir", str(SUITE.parent), "--rootdir", str(SUITE.parent), "-c", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(SUITE)],
        cwd=ROOT,
        env={**os.environ, "ECOSYSTEM_LOOP": loop.name},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 passed, 1 xfailed" in done.stdout, done.stdout
