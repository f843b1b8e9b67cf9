"""One run of a program in a separate process, and its outcome."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from .catalogue import Program
from .services import missing

# Seconds; the slowest program takes about ten on an idle machine.
LIMIT = 180


@dataclass(frozen=True)
class Outcome:
    """The outcome of one program on one loop."""

    verdict: str  # "passed", "FAILED", "hangs", or what is "missing"
    seconds: float = 0.0
    output: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"

    def __str__(self) -> str:
        return f"passed, {self.seconds:.1f} s" if self.passed else self.verdict


def run(program: Program, loop: str) -> Outcome:
    """Run the program; it fails if it raises or prints anything to standard error."""
    if lacking := [name for name in program.services if missing(name)]:
        return Outcome(f"missing {', '.join(lacking)}")
    started = time.monotonic()
    # Warnings about unclosed transports and loops are failures like any other output.
    command = [sys.executable, "-W", "default::ResourceWarning", "-m", f"{__package__}.child"]
    process = subprocess.Popen(
        [*command, program.name, loop],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=LIMIT)
        verdict = "passed" if process.returncode == 0 and not errors else "FAILED"
    except subprocess.TimeoutExpired:
        verdict = "hangs"
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        errors = b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if verdict == "hangs" and process.stderr is not None:
        errors = process.stderr.read()
    # The last lines say what went wrong.
    text = "".join(errors.decode(errors="replace").splitlines(keepends=True)[-60:])
    if process.returncode:
        text += f"status {process.returncode}\n"
    return Outcome(verdict, time.monotonic() - started, text)
