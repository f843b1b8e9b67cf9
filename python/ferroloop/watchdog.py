"""Reports of loops that do not turn, while they don't.

    with ferroloop.watch(threshold=0.1):
        ferroloop.run(main())

A thread of its own looks at the loops' counters, without the GIL. If the callbacks of one turn take
longer than the threshold, the logger `ferroloop.watchdog` gets a warning with the stack of the
loop's thread, the task and who awaits it; and one more when the loop turns again. A loop that
sleeps because there is nothing to do is fine. C code that holds the GIL is reported as soon as it
lets go.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _ferroloop, call_graph

if TYPE_CHECKING:
    from .loop import EventLoop

logger = logging.getLogger("ferroloop.watchdog")

_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Stall:
    """One report, as the attribute `stall` of the log record."""

    seconds: float
    """How long the turn has lasted so far, or did in all if `over`."""
    over: bool
    """Whether the loop turns again."""
    loop: str
    """The loop, as `repr()` shows it."""
    task: str | None
    """Name of the task that ran; None for a plain callback, or if it is not known."""
    coroutine: str | None
    """Qualified name of the task's coroutine function."""
    awaited_by: tuple[str, ...]
    """Names of the tasks that wait for the task, one waiting for the other."""
    stack: tuple[traceback.FrameSummary, ...]
    """Where the loop's thread was, innermost last; empty if `over`, or in C code alone."""
    suppressed: int
    """Stalls since the last report that were not reported, since they came too soon."""


class Watch:
    """A running watchdog: what `ferroloop.watch()` returns. A context manager."""

    def __init__(self, threshold: float, interval: float, loop: EventLoop | None) -> None:
        self._interval = interval
        self._pid = os.getpid()
        self._next_report = 0.0
        self._suppressed = 0
        # Of the stall that was reported and lasts.
        self._told: dict[int, tuple[str | None, str | None, tuple[str, ...]]] = {}
        # The thread must not keep a watch alive that its owner has forgotten.
        this = weakref.ref(self)

        def report(loop: EventLoop, seconds: float, sampled: bool, over: bool) -> None:
            if (watch := this()) is not None:
                watch._report(loop, seconds, sampled, over)

        self._native = _ferroloop.Watchdog(threshold, report, loop)
        self._thread = threading.Thread(target=self._native, name="ferroloop-watchdog", daemon=True)
        _stop_at_exit()
        self._thread.start()
        _watches.add(self)
        weakref.finalize(self, self._native.stop).atexit = False

    def stop(self) -> None:
        """Stop watching, and wait for the thread to end. May be called again."""
        self._native.stop()
        if self._pid == os.getpid() and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _report(self, loop: EventLoop, seconds: float, sampled: bool, over: bool) -> None:
        """In the watchdog's thread, with the loop's thread standing still if `sampled`."""
        if over:
            if (told := self._told.pop(id(loop), None)) is not None:
                self._log(Stall(seconds, True, repr(loop), *told, (), 0), told=True)
            return
        now = time.monotonic()
        if now < self._next_report:
            self._suppressed += 1
            return
        self._next_report = now + self._interval
        suppressed, self._suppressed = self._suppressed, 0
        name = coroutine = None
        awaited_by: tuple[str, ...] = ()
        stack: list[traceback.FrameSummary] = []
        if sampled:
            thread = loop._thread_id
            frame = None if thread is None else sys._current_frames().get(thread)
            # First what changes as soon as the loop's thread gets the GIL back.
            frames = [(each, each.f_lineno) for each in reversed(call_graph.loop_frames(frame))]
            task = asyncio.current_task(loop)
            if task is not None:
                name, coroutine = task.get_name(), call_graph.coroutine_name(task)
                awaited_by = tuple(other.get_name() for other in call_graph.await_chain(task))
            self._told[id(loop)] = (name, coroutine, awaited_by)
            stack = list(traceback.StackSummary.extract(frames))
            del frame, frames, task
        shown = repr(loop)
        stall = Stall(
            seconds, not sampled, shown, name, coroutine, awaited_by, tuple(stack), suppressed
        )
        self._log(stall, told=False)

    def _log(self, stall: Stall, told: bool) -> None:
        lines = []
        who = "" if stall.task is None else f" in task {stall.task!r} ({stall.coroutine})"
        for name in stall.awaited_by:
            who += f", awaited by {name!r}"
        if stall.over and not told:
            lines.append(
                f"{stall.loop} did not turn for {stall.seconds:.3f} seconds; that was over before "
                "the GIL was free to look at its stack"
            )
        elif stall.over:
            lines.append(f"{stall.loop} turns again, after {stall.seconds:.3f} seconds{who}")
        else:
            lines.append(f"{stall.loop} has not turned for {stall.seconds:.3f} seconds{who}")
            if stall.stack:
                lines += [line.rstrip("\n") for line in traceback.format_list(list(stall.stack))]
            else:
                lines.append(
                    "  No Python code runs in the loop: it is in C code, or waits for the GIL"
                )
        if stall.suppressed:
            lines.append(f"  {stall.suppressed} more since the last report")
        logger.warning("%s", "\n".join(lines), extra={"stall": stall})


_exit_registered = False


def _stop_at_exit() -> None:
    """Have the threads ended while they can still run Python code, as the pool's are."""
    global _exit_registered
    if not _exit_registered:
        # Raises RuntimeError when it is too late to start a thread.
        register: Any = vars(threading)["_register_atexit"]
        register(_stop_all)
        _exit_registered = True


def _stop_all() -> None:
    for watch in list(_watches):
        watch.stop()
