"""Where tasks are: what they wait for, and who waits for them.

For reports about a running loop, from any thread. Nothing here calls code of the program: no
`repr()` of its objects.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

# The frames of who runs the loop: what runs in it is above.
_BOUNDARIES: frozenset[CodeType] = frozenset(
    function.__code__
    for function in (
        asyncio.BaseEventLoop.run_until_complete,
        asyncio.BaseEventLoop.run_forever,
        asyncio.Runner.run,
        asyncio.run,
    )
)


@dataclass(frozen=True, slots=True)
class Location:
    """A place in the program."""

    function: str
    """Qualified name of the function."""
    file: str
    """Path of its source."""
    line: int
    """Line number, from 1; 0 if unknown."""

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


def location_of(code: CodeType, line: int | None) -> Location:
    """Return a place in a function's code."""
    return Location(code.co_qualname, code.co_filename, line or 0)


def loop_frames(frame: FrameType | None) -> list[FrameType]:
    """Return the frames that run inside the loop, innermost first, of the loop's thread.

    Args:
        frame: the innermost frame of the thread.
    """
    found: list[FrameType] = []
    while frame is not None and frame.f_code not in _BOUNDARIES:
        found.append(frame)
        frame = frame.f_back
    return found


def thread_stack(thread: int | None) -> list[Location]:
    """Return where the thread is, inside the loop that it runs; innermost last.

    Args:
        thread: `threading.get_ident()` of the thread. It must not be the calling one.
    """
    frame = None if thread is None else sys._current_frames().get(thread)
    found = [location_of(frame.f_code, frame.f_lineno) for frame in loop_frames(frame)]
    return found[::-1]


def coroutine_stack(coroutine: Any) -> list[Location]:
    """Return where a suspended coroutine waits: itself, what it awaits, and so on.

    Nothing for a coroutine that runs or is done, and for objects that tell nothing.
    """
    found: list[Location] = []
    while coroutine is not None:
        for frame, code, awaited in (
            ("cr_frame", "cr_code", "cr_await"),
            ("gi_frame", "gi_code", "gi_yieldfrom"),
            ("ag_frame", "ag_code", "ag_await"),
        ):
            if hasattr(coroutine, code):
                current = getattr(coroutine, frame)
                if current is not None:
                    found.append(location_of(getattr(coroutine, code), current.f_lineno))
                coroutine = getattr(coroutine, awaited)
                break
        else:
            break
    return found


def coroutine_name(task: asyncio.Task[Any]) -> str:
    """Return the qualified name of a task's coroutine function."""
    coroutine = task.get_coro()
    name = getattr(coroutine, "__qualname__", None) or getattr(coroutine, "__name__", None)
    return str(name or type(coroutine).__name__)


def awaited_object(task: asyncio.Task[Any]) -> str | None:
    """Return what a suspended task waits for: the name of a task, or the type of a future."""
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is None:
        return None
    if isinstance(waiter, asyncio.Task):
        return waiter.get_name()
    return type(waiter).__name__


def awaiting_tasks(task: asyncio.Future[Any]) -> list[asyncio.Task[Any]]:
    """Return the tasks that a task's end will wake, `gather()` and the like looked through."""
    found: dict[int, asyncio.Task[Any]] = {}
    seen: set[int] = set()
    pending: list[Any] = [task]
    while pending:
        future = pending.pop()
        if id(future) in seen:
            continue
        seen.add(id(future))
        for entry in getattr(future, "_callbacks", None) or ():
            callback = entry[0] if isinstance(entry, tuple) else entry
            owner = getattr(callback, "__self__", None)
            if isinstance(owner, asyncio.Task):
                found[id(owner)] = owner
                continue
            if isinstance(owner, asyncio.TaskGroup):
                parent = getattr(owner, "_parent_task", None)
                if parent is not None:
                    found[id(parent)] = parent
                continue
            # gather(), shield() and wait() keep the future they complete in a closure.
            for cell in getattr(callback, "__closure__", None) or ():
                try:
                    content = cell.cell_contents
                except ValueError:
                    continue
                if asyncio.isfuture(content) and content is not future:
                    pending.append(content)
    found.pop(id(task), None)
    return list(found.values())


def await_chain(task: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    """Return the task that waits for `task`, the one that waits for that, and so on.

    Where several wait, the first is followed.
    """
    chain: list[asyncio.Task[Any]] = []
    seen = {id(task)}
    while waiting := [other for other in awaiting_tasks(task) if id(other) not in seen]:
        task = waiting[0]
        seen.add(id(task))
        chain.append(task)
    return chain
