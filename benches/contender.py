"""One loop in one round: its process, the cost of each of its turns, and its failure, if any."""

import os
import signal
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from benches.load_generator import Loadgen, LoadgenError
from benches.outcome import Outcome
from benches.process import Timeout, Worker
from benches.workload import Workload

#: seconds for which a server is fully loaded before the time of its replies is measured
FULL_LOAD = 0.15


@dataclass(frozen=True)
class Conditions:
    """The conditions of a run, which are the same for all loops and workloads."""

    #: seconds for the turns of each process
    seconds: float
    #: seconds without an answer after which a process counts as hanging
    limit: float
    #: wall or cpu
    clock: str
    #: None if no server is measured
    loadgen: Loadgen | None


class Failed(Exception):
    """The loop under test did something wrong."""

    def __init__(self, failure: str, detail: str):
        super().__init__(detail)
        self.outcome = Outcome(failure=failure, detail=detail)


class Contender:
    """A fresh process that takes a turn when it is told to, and sleeps in between.

    No method raises because of what the loop does. The first failure is kept and the process, which
    may be busy, is ended; the other contenders finish the round without it.
    """

    def __init__(self, workload: Workload, loop: str, conditions: Conditions):
        self.loop = loop
        self.costs: list[float] = []
        self.failure: Outcome | None = None
        self._workload = workload
        self._conditions = conditions
        self._address = ""
        self._at_rate: tuple[str, ...] = ()
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        cpu = -1 if workload.parallel else _core(0)
        self._worker = Worker(workload, loop, cpu, self._directory.name, conditions.clock)

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._worker.process.pid

    def start(self) -> None:
        """Wait until the process serves, or has warmed up."""
        self._attempt(self._start)

    def cost_at_full_load(self) -> float:
        """Nanoseconds per operation while all connections are busy; 0 if it fails."""
        costs: list[float] = []
        self._attempt(lambda: costs.append(self._load(FULL_LOAD)))
        return costs[0] if costs else 0.0

    def measure_latency(self, interval: float) -> None:
        """From now on measure the time of replies, with a request every `interval` nanoseconds."""
        percentage = self._workload.percentage
        self._at_rate = ("--latency", percentage, "--interval", str(round(interval)))

    def take_turn(self, seconds: float) -> None:
        """Measure for `seconds`."""
        self._attempt(lambda: self.costs.append(self._measure(seconds)))

    def finish(self) -> Outcome:
        """End the process cleanly and return the outcome."""
        self._attempt(self._finish)
        if self.failure:
            return self.failure
        return Outcome(value=statistics.median(self.costs), turns=tuple(self.costs))

    def close(self) -> None:
        """End the process, cleanly or not."""
        self._worker.destroy()
        self._directory.cleanup()

    def _attempt(self, step: Callable[[], None]) -> None:
        if self.failure:
            return
        try:
            step()
        except Failed as failed:
            self.failure = failed.outcome
        except Timeout:
            detail = f"no answer for {self._conditions.limit:.0f} s"
            self.failure = Outcome(failure="hang", detail=detail)
        if self.failure:
            self._worker.destroy()

    def _start(self) -> None:
        self._address = self._answer().get("address", "")

    def _measure(self, seconds: float) -> float:
        if self._workload.kind == "served":
            return self._load(seconds)
        self._worker.ask(seconds)
        return self._answer()["cost"]

    def _load(self, seconds: float) -> float:
        limit = self._conditions.limit
        clock = "wall" if self._workload.percentage else self._conditions.clock
        loadgen = self._conditions.loadgen
        assert loadgen is not None, "the caller builds it when a server is selected"
        try:
            return loadgen.run(
                (*self._workload.load, *self._at_rate),
                self._address,
                self.pid,
                seconds,
                _core(1),
                limit,
                clock,
            )
        except LoadgenError as error:
            # The connections of a dying process break before it has ended completely.
            if self._worker.ends_within(1.0):
                raise self._ended(self._worker.line(limit)) from None
            raise Failed(error.kind, str(error)) from None

    def _finish(self) -> None:
        limit = self._conditions.limit
        if self._worker.finish(limit):
            raise self._ended(self._worker.line(limit))

    def _answer(self) -> dict:
        report = self._worker.line(self._conditions.limit)
        if report is None or "failure" in report:
            raise self._ended(report)
        return report

    def _ended(self, report: dict | None) -> Failed:
        """The failure of a process whose last line was `report`, or that wrote none."""
        code = self._worker.finish(self._conditions.limit)
        if code < 0:
            return Failed("crash", signal.Signals(-code).name)
        if report is None:
            return Failed("error", self._worker.last_words() or f"exit status {code}")
        return Failed(report["failure"], report["detail"])


def _core(index: int) -> int:
    """The core of the server (0) or the client (1); -1 if there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[index] if len(cores) > 1 else -1
