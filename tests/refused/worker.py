"""Runs scenarios while calls fail, in this process, and looks at what is left of each.

Reads a line of JSON for each run and answers with one: the outcome and what is wrong.
"""

import asyncio
import contextlib
import faulthandler
import gc
import json
import logging
import os
import re
import signal
import sys
import time
import warnings
from typing import Any

from .faults import MIXED, Faults
from .scenarios import EARLY, SCENARIOS, Corrupted, Stage

# How long a scenario may take, and how long again if that was not enough.
SECONDS = (1, 5)
# How long it may go on once its fault was reported to the exception handler: as with asyncio,
# what waits for the rest may wait for ever.
REPORTED = 0.1
# An idle loop sleeps.
IDLE, MOST_WORK = (0.03, 0.25), 0.3

# No refused call explains them.
FAULTS_OF_OURS = (
    SystemError,
    TypeError,
    AttributeError,
    AssertionError,
    asyncio.InvalidStateError,
)

# What wakes a loop from other threads.
WAKER = "anon_inode:[eventfd]"

# Descriptors that stay from one loop to the next.
LASTING: set[int] = set()

LOOP = sys.argv[1] if __name__ == "__main__" else "ferroloop"
OWN = "_ferroloop" if LOOP == "ferroloop" else ""


def new_loop() -> asyncio.AbstractEventLoop:
    if LOOP == "asyncio":
        return asyncio.SelectorEventLoop()
    import ferroloop

    return ferroloop.new_event_loop()


def descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def watched() -> set[int]:
    """What the epolls of this process have registered."""
    found = set()
    for fd, target in descriptors().items():
        if target == "anon_inode:[eventpoll]":
            with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{fd}") as info:
                found |= {int(number) for number in re.findall(r"tfd:\s*(\d+)", info.read())}
    return found


class Run:
    """One run of a scenario with one fault."""

    def __init__(self, faults: Faults, order: dict[str, Any], seconds: float) -> None:
        self.faults, self.order, self.seconds = faults, order, seconds
        self.is_early = SCENARIOS[order["scenario"]] in EARLY
        self.wrong: list[str] = []
        self.stage: Stage | None = None
        self.limit: asyncio.Timeout | None = None
        self.reported = self.finished = False
        self.outcome = ""
        self.hits = 0
        self.seen: dict[str, int] = {}

    def run(self) -> None:
        before = descriptors()
        if self.is_early:
            self.arm()
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.get_loop().set_exception_handler(self.note)
                try:
                    runner.run(self.main())
                finally:
                    self.disarm()
        except BaseException as error:
            self.disarm()
            if self.stage is not None and not self.finished:
                self.wrong.append("the loop has ended, not the program")
            self.outcome = self.outcome or self.describe(error)
        self.stage = None
        gc.collect()
        for fd, target in descriptors().items():
            if before.get(fd) != target:
                self.wrong.append(f"descriptor {fd} is left: {target}")
                with contextlib.suppress(OSError):
                    os.close(fd)
        for text in STDERR.take():
            self.wrong.append(f"logged: {text}")

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        self.stage = Stage(self.order["error"])
        usual = set()
        if not self.is_early:
            await asyncio.sleep(0.001)
            usual = watched()
            self.arm()
        try:
            async with asyncio.timeout(self.seconds) as self.limit:
                await SCENARIOS[self.order["scenario"]](self.stage)
            self.outcome = "ok"
        except Exception as error:
            self.outcome = self.describe(error)
            if isinstance(error, Corrupted):
                self.wrong.append("corrupted bytes")
            elif self.limit.expired() and not self.reported:
                self.wrong.append("it hangs")
        finally:
            self.disarm()
        await self.leave(loop)
        self.wrong += self.stage.faults_of_life()
        await self.rest(usual)
        self.finished = True

    def arm(self) -> None:
        order = self.order
        caller = OWN if order["own"] else ""
        self.faults.arm(
            order["call"], order["error"], order["first"], order["step"], order["limit"], caller
        )

    def disarm(self) -> None:
        if not self.seen:
            self.seen = self.faults.seen()
        self.hits = self.faults.disarm()

    async def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what the scenario has left, as a program would that met an error."""
        try:
            async with asyncio.timeout(self.seconds):
                await self.stage.cleanup.aclose()
                for peer in self.stage.peers:
                    if peer.transport is not None:
                        # One that reads from a pipe has no abort().
                        getattr(peer.transport, "abort", peer.transport.close)()
                for peer in self.stage.peers:
                    if peer.transport is not None:
                        await peer.lost
        except TimeoutError:
            self.wrong.append("what it made does not end")
        except Exception as error:
            self.wrong.append(f"what it made does not end: {error!r}")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.001)

    async def rest(self, usual: set[int]) -> None:
        """An idle loop does nothing, and watches nothing that it did not watch before."""
        for seconds in IDLE:
            gc.collect()
            used = time.process_time()
            await asyncio.sleep(seconds)
            used = time.process_time() - used
            if used < MOST_WORK * seconds:
                break
        else:
            self.wrong.append(f"an idle loop works for {used:.3f} s of {seconds} s")
        gc.collect()
        now = descriptors()
        left = [now.get(fd, str(fd)) for fd in watched() - usual - LASTING]
        if self.is_early and WAKER in left:
            left.remove(WAKER)
        if left:
            self.wrong.append(f"still watched: {left}")

    def note(self, loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self.reported and isinstance(error, OSError) and self.is_the_fault(error):
            self.reported = True
            if self.limit is not None and self.limit.when() is not None:
                with contextlib.suppress(RuntimeError):  # it is over
                    self.limit.reschedule(asyncio.get_running_loop().time() + REPORTED)
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        if isinstance(error, FAULTS_OF_OURS) or not isinstance(error, Exception):
            self.wrong.append(f"reported: {context['message']}: {error!r}")

    def is_the_fault(self, error: OSError) -> bool:
        return self.order["error"] in (error.errno, MIXED)

    def describe(self, error: BaseException) -> str:
        text = f"{type(error).__name__}: {error}"
        if "Panic" in text or isinstance(error, FAULTS_OF_OURS):
            self.wrong.append(f"raised: {text}")
        return text


class Lines(logging.Handler):
    """What the loggers say that no fault explains."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "panic" in record.getMessage():
            self.lines.append(record.getMessage())

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


STDERR = Lines()


def main() -> None:
    faults = Faults()
    for name in ("asyncio", "ferroloop"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.addHandler(STDERR)
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda unraisable: None
    answers = os.fdopen(os.dup(1), "w")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # What is made once for the whole process is made before anything counts: the pipe for signals,
    # which cannot fail once it is there.
    before = descriptors()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.sleep(0.001))
    LASTING.update(descriptors().keys() - before)
    for fd in LASTING:
        faults.spare(fd)
    for name in SCENARIOS:
        nothing = {"call": "close", "error": 5, "first": 1 << 40, "step": 0, "limit": 0}
        Run(faults, {"scenario": name, "own": True, **nothing}, 30).run()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        for seconds in SECONDS:
            faulthandler.dump_traceback_later(5 * seconds + 10, exit=True)
            run = Run(faults, order, seconds)
            run.run()
            faulthandler.cancel_dump_traceback_later()
            if "it hangs" not in run.wrong:
                break
        answer = {"outcome": run.outcome, "wrong": run.wrong, "hits": run.hits, "seen": run.seen}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    # The scenarios import this module by its name.
    from tests.refused import worker

    worker.LOOP, worker.OWN = LOOP, OWN
    worker.main()
