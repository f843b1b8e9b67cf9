"""The programs in the documentation run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

# The pages whose programs are whole ones.
PAGES = [Path(__file__).resolve().parent.parent / "docs" / "DIAGNOSTICS.md"]

PROGRAMS = [
    pytest.param(match[1], id=f"{page.stem}-{number}")
    for page in PAGES
    for number, match in enumerate(re.finditer(r"```python\n(.*?)```", page.read_text(), re.S))
]


def test_there_are_programs():
    assert len(PROGRAMS) >= 7


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(program, request):
    if "ferroloop" not in request.config.getoption("--loops").split(","):
        pytest.skip("they are about ferroloop")
    if "opentelemetry" in program:
        pytest.importorskip("opentelemetry.metrics")
    path = f"import sys; sys.path[:] = {sys.path!r}\n"
    ran = subprocess.run(
        [sys.executable, "-c", path + program], capture_output=True, text=True, timeout=30
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
