"""A fresh process for one workload on one loop."""

import contextlib
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benches.workload import Workload

ROOT = Path(__file__).resolve().parent.parent


def has_module(name: str) -> bool:
    """Whether `name` can be imported, without importing it here."""
    return importlib.util.find_spec(name) is not None


class Timeout(Exception):
    """The worker did not answer in time."""


class Worker:
    """A ``benches.worker`` process and the lines to and from it."""

    def __init__(self, workload: Workload, loop: str, cpu: int, endpoint: str, clock: str):
        command = [sys.executable, "-m", "benches.worker"]
        command += ["--module", workload.module, "--workload", workload.name]
        command += ["--loop", loop, "--cpu", str(cpu), "--endpoint", endpoint, "--clock", clock]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,
        )
        self._pending = b""

    def ask(self, seconds: float) -> None:
        """Have the worker measure for `seconds`; `line` returns the result or notices its end."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{seconds}\n".encode())

    def line(self, timeout: float) -> dict | None:
        """The next report; None at end of output."""
        deadline = time.monotonic() + timeout
        stdout = self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise Timeout
                data = os.read(stdout.fileno(), 65536)
                if not data:
                    return None
                self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    def finish(self, timeout: float) -> int:
        """Close stdin, which stops the worker, and wait for its exit status; raises Timeout."""
        self.process.stdin.close()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Timeout from None

    def ends_within(self, timeout: float) -> bool:
        """Whether the process ends by itself within `timeout` seconds, or has ended."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """The last line that it wrote to stderr."""
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1] if lines else ""

    def destroy(self) -> None:
        """End the process and its children, and release the pipes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            stream.close()
