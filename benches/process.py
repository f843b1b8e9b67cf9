"""Runs one workload on one loop in a fresh process and says what came of it."""

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

from benches.load_generator import Loadgen, LoadgenError
from benches.outcome import Outcome
from benches.workload import Workload

ROOT = Path(__file__).resolve().parent.parent


def has_module(name: str) -> bool:
    """Whether `name` can be imported, without importing it here."""
    return importlib.util.find_spec(name) is not None


class Timeout(Exception):
    """The worker said nothing for too long."""


class Worker:
    """A ``benches.worker`` process and its line-based output."""

    def __init__(
        self,
        workload: Workload,
        loop: str,
        seconds: float,
        cpu: int,
        endpoint: str,
        clock: str,
    ):
        command = [sys.executable, "-m", "benches.worker"]
        command += ["--module", workload.module, "--workload", workload.name]
        command += ["--loop", loop, "--seconds", str(seconds)]
        command += ["--cpu", str(cpu), "--endpoint", endpoint, "--clock", clock]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,
        )
        self._pending = b""

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
        """Close stdin (a server's sign to stop) and wait; raises Timeout."""
        self.process.stdin.close()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Timeout from None

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1] if lines else ""

    def destroy(self) -> None:
        """End the process and whatever it started, and release the pipes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            stream.close()


def run(
    workload: Workload,
    loop: str,
    seconds: float,
    limit: float,
    loadgen: Loadgen | None,
    clock: str,
) -> Outcome:
    """One fresh process; never raises for what the loop under test does."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        cpu = -1 if workload.parallel else _core(0)
        worker = Worker(workload, loop, seconds, cpu, directory, clock)
        try:
            if workload.kind == "served":
                assert loadgen is not None, "the caller builds it when a server is selected"
                return _drive_server(worker, workload, loadgen, seconds, limit, clock)
            return _conclude(worker, worker.line(limit), limit)
        except Timeout:
            return Outcome(failure="hang", detail=f"no answer for {limit:.0f} s")
        finally:
            worker.destroy()


def _core(index: int) -> int:
    """The server's core (0) or the client's (1), or -1 where there is but one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[index] if len(cores) > 1 else -1


def _drive_server(
    worker: Worker,
    workload: Workload,
    loadgen: Loadgen,
    seconds: float,
    limit: float,
    clock: str,
) -> Outcome:
    first = worker.line(limit)
    if first is None or "address" not in first:
        return _conclude(worker, first, limit)
    try:
        pid = worker.process.pid
        result = loadgen.run(workload.load, first["address"], pid, seconds, _core(1), limit, clock)
    except LoadgenError as error:
        if worker.process.poll() is not None:
            return _conclude(worker, None, limit)
        return Outcome(failure=error.kind, detail=str(error))
    worker.finish(limit)
    conclusion = _conclude(worker, worker.line(1), limit)
    return Outcome(value=result) if conclusion.ok else conclusion


def _conclude(worker: Worker, report: dict | None, limit: float) -> Outcome:
    """The outcome of a worker that has sent its last line (or none)."""
    code = worker.finish(limit)
    if code < 0:
        return Outcome(failure="crash", detail=f"{signal.Signals(-code).name}")
    if report is None:
        return Outcome(failure="error", detail=worker.last_words() or f"exit status {code}")
    if "failure" in report:
        return Outcome(failure=report["failure"], detail=report["detail"])
    if code:
        return Outcome(failure="error", detail=worker.last_words() or f"exit status {code}")
    return Outcome(value=report["value"])
