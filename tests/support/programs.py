"""Child programs: a script run by a fresh interpreter on one flavour's loop."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from .flavours import Flavour

PROLOGUE = {
    "asyncio": "from asyncio import SelectorEventLoop as new_event_loop",
    "ferroloop": "from ferroloop import new_event_loop",
}

# As of `Flavour.new_loop()`: no slow callbacks are reported. A part of the prologue's one line, so
# that line numbers of scripts do not depend on the mode.
QUIET = (
    "_make = new_event_loop; new_event_loop = lambda: "
    "(loop := _make(), setattr(loop, 'slow_callback_duration', 60))[0]"
)

# What a child has to end. Longer under an emulator.
SECONDS = float(os.environ.get("PROGRAM_SECONDS", 30))


class Program:
    """A running child whose script can call `new_event_loop()`."""

    def __init__(self, flavour: Flavour, source: str, *options: str) -> None:
        prologue = (
            # Not through PYTHONPATH: the options -E and -I ignore it.
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"import asyncio, os, signal, threading, time; {PROLOGUE[flavour.name]}"
        )
        if flavour.debug:
            prologue += f"; {QUIET}"
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        environment.pop("PYTHONASYNCIODEBUG", None)
        if flavour.debug:
            environment["PYTHONASYNCIODEBUG"] = "1"
        self.process = subprocess.Popen(
            [sys.executable, *options, "-c", f"{prologue}\n{textwrap.dedent(source)}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parent,
            # A parent that runs as a shell's background job passes on an ignored SIGINT.
            preexec_fn=restore_sigint,
        )

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def wait_for_line(self, expected: str) -> None:
        """Wait for the child to print this line; it must be the next one."""
        line = self.process.stdout.readline().rstrip("\n")
        assert line == expected, line + self.process.stderr.read()

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def finish(self, seconds: float = SECONDS) -> tuple[int, str, str]:
        """The exit status and everything printed since."""
        out, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, errors


def restore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def run_program(flavour: Flavour, source: str, *options: str) -> tuple[int, str, str]:
    """Run a script to its end: exit status, standard output, standard error."""
    with Program(flavour, source, *options) as program:
        return program.finish()
