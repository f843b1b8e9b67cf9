"""Runs scenarios in this process while calls fail, and checks what each one leaves behind.

Reads one line of JSON for each run and replies with one: the outcome and the problems found.
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

# How long a scenario may take, and how long when it is retried after a timeout.
SECONDS = (1, 5)
# How long it may continue once its fault was reported to the exception handler: as with asyncio,
# code that waits for the remaining data may wait forever.
REPORTED = 0.1
# How long an idle loop is observed, and the largest fraction of a CPU that it may use.
IDLE, LARGEST_SHARE = (0.03, 0.25), 0.3

# Exceptions that a failed system call cannot explain.
OUR_BUGS = (
    SystemError,
    TypeError,
    AttributeError,
    AssertionError,
    asyncio.InvalidStateError,
)

# The descriptor through which other threads wake a loop.
WAKER = "anon_inode:[eventfd]"

# Descriptors that persist from one loop to the next.
PERSISTENT: set[int] = set()

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
    """The descriptors registered with the epoll instances of this process."""
    found = set()
    for fd, target in descriptors().items():
        if target == "anon_inode:[eventpoll]":
            with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{fd}") as info:
                found |= {int(number) for number in re.findall(r"tfd:\s*(\d+)", info.read())}
    return found


class Run:
    """One run of a scenario with one fault."""

    def __init__(self, faults: Faults, fault: dict[str, Any], seconds: float) -> None:
        self.faults, self.fault, self.seconds = faults, fault, seconds
        self.is_early = SCENARIOS[fault["scenario"]] in EARLY
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
        self.stage = Stage(self.fault["error"])
        usual = set()
        if not self.is_early:
            await asyncio.sleep(0.001)
            usual = watched()
            self.arm()
        try:
            async with asyncio.timeout(self.seconds) as self.limit:
                await SCENARIOS[self.fault["scenario"]](self.stage)
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
        self.wrong += self.stage.life_cycle_faults()
        await self.check_idle(usual)
        self.finished = True

    def arm(self) -> None:
        fault = self.fault
        caller = OWN if fault["own"] else ""
        self.faults.arm(
            fault["call"], fault["error"], fault["first"], fault["step"], fault["limit"], caller
        )

    def disarm(self) -> None:
        if not self.seen:
            self.seen = self.faults.seen()
        self.hits = self.faults.disarm()

    async def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Clean up what the scenario has left, as a program would after an error."""
        try:
            async with asyncio.timeout(self.seconds):
                await self.stage.cleanup.aclose()
                for peer in self.stage.peers:
                    if peer.transport is not None:
                        # A pipe's read transport has no abort().
                        getattr(peer.transport, "abort", peer.transport.close)()
                for peer in self.stage.peers:
                    if peer.transport is not None:
                        await peer.lost
        except TimeoutError:
            self.wrong.append("what it created cannot be cleaned up")
        except Exception as error:
            self.wrong.append(f"what it created cannot be cleaned up: {error!r}")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.001)

    async def check_idle(self, usual: set[int]) -> None:
        """Check that the idle loop does nothing, and watches nothing new."""
        for seconds in IDLE:
            gc.collect()
            used = time.process_time()
            await asyncio.sleep(seconds)
            used = time.process_time() - used
            if used < LARGEST_SHARE * seconds:
                break
        else:
            self.wrong.append(f"an idle loop works for {used:.3f} s of {seconds} s")
        gc.collect()
        now = descriptors()
        left = [now.get(fd, str(fd)) for fd in watched() - usual - PERSISTENT]
        if self.is_early and WAKER in left:
            left.remove(WAKER)
        if left:
            self.wrong.append(f"still watched: {left}")

    def note(self, loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self.reported and isinstance(error, OSError) and self.is_the_fault(error):
            self.reported = True
            if self.limit is not None and self.limit.when() is not None:
                with contextlib.suppress(RuntimeError):  # the timeout has already ended
                    self.limit.reschedule(asyncio.get_running_loop().time() + REPORTED)
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        if isinstance(error, OUR_BUGS) or not isinstance(error, Exception):
            self.wrong.append(f"reported: {context['message']}: {error!r}")

    def is_the_fault(self, error: OSError) -> bool:
        return self.fault["error"] in (error.errno, MIXED)

    def describe(self, error: BaseException) -> str:
        text = f"{type(error).__name__}: {error}"
        if "Panic" in text or isinstance(error, OUR_BUGS):
            self.wrong.append(f"raised: {text}")
        return text


class Lines(logging.Handler):
    """Log messages that a fault cannot explain."""

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
    # Create per-process singletons before calls are counted: the signal pipe, which cannot fail
    # once it exists.
    before = descriptors()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.sleep(0.001))
    PERSISTENT.update(descriptors().keys() - before)
    for fd in PERSISTENT:
        faults.spare(fd)
    for name in SCENARIOS:
        nothing = {"call": "close", "error": 5, "first": 1 << 40, "step": 0, "limit": 0}
        Run(faults, {"scenario": name, "own": True, **nothing}, 30).run()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        fault = json.loads(line)
        for seconds in SECONDS:
            faulthandler.dump_traceback_later(5 * seconds + 10, exit=True)
            run = Run(faults, fault, seconds)
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
