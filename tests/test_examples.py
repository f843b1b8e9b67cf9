"""Every example prints the same on asyncio and under `python -m ferroloop`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def output_of(*command: str) -> tuple[int, str, str]:
    """The exit status and the printed text."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    environment.pop("PYTHONASYNCIODEBUG", None)
    done = subprocess.run(
        [sys.executable, "-W", "default", *command],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, normalised(done.stdout), normalised(done.stderr)


def normalised(text: str) -> str:
    """Remove what differs between any two runs, and frames of asyncio's own code."""
    text = re.sub(r"\b0x[0-9a-f]+\b", "0x...", text)
    # A traceback line in asyncio or ferroloop, with the source and markers below it.
    text = re.sub(
        r'  File "[^"]*[/\\](asyncio|ferroloop)[/\\][^"]*", line .*\n(    .*\n)*', "", text
    )
    text = re.sub(r"\S+/asyncio/(\w+)\.py:\d+", r"asyncio/\1.py", text)
    text = re.sub(r"<(_\w+)?(Selector)?EventLoop running", "<EventLoop running", text)
    text = re.sub(r"[\d.]+ seconds", "... seconds", text)
    return text


def test_there_are_examples():
    assert len(EXAMPLES) >= 12


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_same_output(path):
    theirs = output_of(str(path))
    ours = output_of("-m", "ferroloop", str(path))
    assert ours == theirs
    assert len(theirs[1].splitlines()) >= 5, "an example shows something"
    expected_status = 1 if path.stem == "errors" else 0
    assert theirs[0] == expected_status
