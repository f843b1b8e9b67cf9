"""Reports loops that do not turn, while they are stalled.

    with ferroloop.watch(threshold=0.1):
        ferroloop.run(main())

A separate thread reads the loops' counters, without the GIL. If the callbacks of one turn take
longer than the threshold, the logger `ferroloop.watchdog` gets a warning with the stack of the
loop's thread, the task and the tasks that await it, and another warning when the loop turns again.
Both tell whether the thread computed, blocked, waited for the GIL or waited for a processor. A loop
that sleeps because it has nothing to do is not reported. C code that holds the GIL is reported as
soon as it releases the GIL.
"""

from __future__ import annotations

import asyncio
import contextvars
import linecache
import logging
import os
import threading
import time
import traceback
import weakref
from dataclasses import dataclass, replace
from types import CodeType
from typing import TYPE_CHECKING, Any

from . import _ferroloop, blocking, call_graph

if TYPE_CHECKING:
    from .loop import EventLoop

logger = logging.getLogger("ferroloop.watchdog")

_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Stall:
    """One report, as the attribute `stall` of the log record."""

    seconds: float
    """Duration of the turn so far, or its whole duration if `over`."""
    over: bool
    """Whether the stall has ended."""
    loop: str
    """The `repr()` of the loop."""
    task: str | None
    """Name of the running task; None for a plain callback, or if it is not known."""
    coroutine: str | None
    """Qualified name of the task's coroutine function."""
    awaited_by: tuple[str, ...]
    """Names of the task that waits for `task`, of the one that waits for that task, and so on."""
    stack: tuple[traceback.FrameSummary, ...]
    """The stack of the loop's thread, innermost last; empty if `over`, or if it runs no Python."""
    suppressed: int
    """Stalls since the last report that were not reported because of the interval."""
    spent: blocking.TimeSpent | None = None
    """How the loop's thread spent the time; None if the system does not tell."""
    call: blocking.BlockingCall | None = None
    """The call that took longest, while `ferroloop.name_blocking_calls()` is in effect."""
    context: contextvars.Context | None = None
    """A copy of the task's context."""


class Watch:
    """A running watchdog: what `ferroloop.watch()` returns. A context manager."""

    def __init__(self, threshold: float, interval: float, loop: EventLoop | None) -> None:
        self._interval = interval
        self._pid = os.getpid()
        self._next_report = 0.0
        self._suppressed = 0
        # Each stall that was reported and is not over.
        self._reported: dict[int, Stall] = {}
        # The thread must not keep this object alive after its owner has dropped it.
        this = weakref.ref(self)

        def report(
            loop: EventLoop,
            began: float,
            seconds: float,
            sampled: bool,
            over: bool,
            readings: blocking.Readings | None,
        ) -> None:
            if (watch := this()) is not None:
                spent = blocking.time_spent(seconds, readings, sampled=True)
                call = blocking.longest_call(loop._thread_id, began, began + seconds)
                watch._report(loop, seconds, sampled, over, spent, call)

        self._native = _ferroloop.Watchdog(threshold, report, loop)
        self._thread = threading.Thread(target=self._native, name="ferroloop-watchdog", daemon=True)
        _stop_at_exit()
        self._thread.start()
        _watches.add(self)
        weakref.finalize(self, self._native.stop).atexit = False

    def stop(self) -> None:
        """Stop watching, and wait for the thread to end. May be called more than once."""
        self._native.stop()
        if self._pid == os.getpid() and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _report(
        self,
        loop: EventLoop,
        seconds: float,
        sampled: bool,
        over: bool,
        spent: blocking.TimeSpent | None,
        call: blocking.BlockingCall | None,
    ) -> None:
        """Called in the watchdog's thread. If `sampled`, the turn has not ended."""
        if over:
            if (begun := self._reported.pop(id(loop), None)) is not None:
                ended = replace(
                    begun,
                    seconds=seconds,
                    over=True,
                    stack=(),
                    suppressed=0,
                    spent=spent,
                    call=call,
                )
                self._log(ended, reported=True)
            return
        if call is not None and call.allowed and 2 * call.seconds >= seconds:
            return
        now = time.monotonic()
        if now < self._next_report:
            self._suppressed += 1
            return
        self._next_report = now + self._interval
        suppressed, self._suppressed = self._suppressed, 0
        name = coroutine = context = None
        awaited_by: tuple[str, ...] = ()
        stack: list[traceback.FrameSummary] = []
        if sampled:
            # First copy what changes as soon as the loop's thread goes on.
            frames = call_graph.loop_stack(loop._thread_id)
            task = asyncio.current_task(loop)
            if task is not None:
                name, coroutine = task.get_name(), call_graph.coroutine_name(task)
                awaited_by = tuple(other.get_name() for other in call_graph.await_chain(task))
                context = blocking.context_of(task)
            stack = _summary(frames)
            del frames, task
        stall = Stall(
            seconds,
            not sampled,
            repr(loop),
            name,
            coroutine,
            awaited_by,
            tuple(stack),
            suppressed,
            spent,
            call,
            context,
        )
        if sampled:
            self._reported[id(loop)] = stall
        self._log(stall, reported=False)

    def _log(self, stall: Stall, reported: bool) -> None:
        lines = []
        who = "" if stall.task is None else f" in task {stall.task!r} ({stall.coroutine})"
        for name in stall.awaited_by:
            who += f", awaited by {name!r}"
        details = [f"  {detail}" for detail in (stall.spent, stall.call) if detail is not None]
        if stall.over and not reported:
            lines.append(
                f"{stall.loop} did not turn for {stall.seconds:.3f} seconds; the stall ended "
                "before the watchdog got the GIL to read its stack"
            )
            lines += details
        elif stall.over:
            how = "".join(f"; {detail.strip()}" for detail in details)
            lines.append(f"{stall.loop} turns again, after {stall.seconds:.3f} seconds{who}{how}")
        else:
            lines.append(f"{stall.loop} has not turned for {stall.seconds:.3f} seconds{who}")
            lines += details
            if stall.stack:
                lines += [line.rstrip("\n") for line in traceback.format_list(list(stall.stack))]
            else:
                lines.append(
                    "  No Python code runs in the loop: it is in C code, or waits for the GIL"
                )
        if stall.suppressed:
            lines.append(f"  {stall.suppressed} more since the last report")
        # In the task's context, for logging filters that read context variables.
        run = contextvars.copy_context().run if stall.context is None else stall.context.run
        run(logger.warning, "%s", "\n".join(lines), extra={"stall": stall})


_exit_registered = False


def _summary(
    frames: list[tuple[CodeType, int, dict[str, Any]]],
) -> list[traceback.FrameSummary]:
    """Return what `traceback.StackSummary.extract()` makes of frames."""
    for code, _line, names in frames:
        linecache.lazycache(code.co_filename, names)
    for file in {code.co_filename for code, _line, _names in frames}:
        linecache.checkcache(file)
    return [
        traceback.FrameSummary(code.co_filename, line if line > 0 else None, code.co_name)
        for code, line, _names in frames
    ]


def _stop_at_exit() -> None:
    """Stop the threads at exit while they can still run Python code, as the pool's threads are."""
    global _exit_registered
    if not _exit_registered:
        # Raises RuntimeError when it is too late to start a thread.
        register: Any = vars(threading)["_register_atexit"]
        register(_stop_all)
        _exit_registered = True


def _stop_all() -> None:
    for watch in list(_watches):
        watch.stop()
