"""Where tasks are suspended: what they wait for, and which tasks wait for them.

For reports about a running loop, from any thread. No function here calls code of the program, such
as the `repr()` of its objects.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from types import CodeType
from typing import Any

from . import _ferroloop

_TASKS_FILE = asyncio.gather.__code__.co_filename
_AS_COMPLETED: tuple[type, ...] = tuple(
    filter(None, [getattr(asyncio.tasks, "_AsCompletedIterator", None)])
)

# The waiters of each future that the program recorded with `future_add_to_awaited_by()`.
_recorded: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()

# Functions that run the loop: frames above theirs run inside the loop.
_BOUNDARIES: frozenset[CodeType] = frozenset(
    function.__code__
    for function in (
        asyncio.BaseEventLoop.run_until_complete,
        asyncio.BaseEventLoop.run_forever,
        asyncio.Runner.run,
        asyncio.run,
    )
)

# A thread without a GIL may leave a frame while its stack is being read, which then ends there. So
# a stack without a boundary is read again; a host's own way to run the loop has none.
_ATTEMPTS = 3


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
    """Return a location in a function's code."""
    return Location(code.co_qualname, code.co_filename, line or 0)


def loop_stack(thread: int | None) -> list[tuple[CodeType, int, dict[str, Any]]]:
    """Return code, line and globals of the frames of a thread inside its loop, innermost last.

    Args:
        thread: `threading.get_ident()` of the thread, which must not be the calling thread.
    """
    if thread is None:
        return []
    for _ in range(_ATTEMPTS):
        found = _ferroloop.thread_stack(thread)
        inside = list(takewhile(lambda entry: entry[0] not in _BOUNDARIES, found))
        if len(inside) < len(found):
            break
    return inside[::-1]


def thread_stack(thread: int | None) -> list[Location]:
    """Return the stack of a thread inside the loop that it runs, innermost last.

    Args:
        thread: `threading.get_ident()` of the thread, which must not be the calling thread.
    """
    return [location_of(code, max(line, 0)) for code, line, _globals in loop_stack(thread)]


def coroutine_stack(coroutine: Any) -> list[Location]:
    """Return the stack of a suspended coroutine: its location, that of what it awaits, and so on.

    Empty for a coroutine that runs or is done, and for objects without this information.
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
    """Return the tasks that the end of a task will wake, also through `gather()` and the like, and
    the recorded waiters.
    """
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
            for waiter in _waiters_of(callback):
                if isinstance(waiter, asyncio.Task):
                    found[id(waiter)] = waiter
                elif asyncio.isfuture(waiter):
                    pending.append(waiter)
    waiters = list(_recorded.get(task, ()))
    if sys.version_info >= (3, 14) and isinstance(task, _ferroloop.Task):
        waiters += _ferroloop.recorded_waiters(task)
    for waiter in waiters:
        found[id(waiter)] = waiter
    found.pop(id(task), None)
    return list(found.values())


def _waiters_of(callback: Any) -> Iterator[Any]:
    """The tasks that a callback wakes, or the futures that it completes."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        yield owner
        return
    if isinstance(owner, asyncio.TaskGroup):
        yield getattr(owner, "_parent_task", None)
        return
    if isinstance(owner, _AS_COMPLETED):
        yield getattr(owner, "_cur_task", None)
        return
    code = getattr(callback, "__code__", None)
    if not isinstance(code, CodeType):
        return
    # The callbacks of gather() and shield() hold the task that called them, in a variable or a
    # default (3.14). Those of gather(), shield() and wait() hold the future that they complete, in
    # a closure.
    of_asyncio = code.co_filename == _TASKS_FILE
    found: list[Any] = []
    if of_asyncio and "cur_task" in code.co_varnames[: code.co_argcount]:
        found += getattr(callback, "__defaults__", None) or ()
    cells = getattr(callback, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars, cells, strict=False):
        try:
            content = cell.cell_contents
        except ValueError:
            continue
        if of_asyncio and name == "cur_task":
            found.append(content)
        elif asyncio.isfuture(content) and not isinstance(content, asyncio.Task):
            if content.done():
                return  # for example a gather() that has failed no longer waits for the others
            found.append(content)
    yield from found


def await_chain(task: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    """Return the task that waits for `task`, the one that waits for that, and so on.

    If several tasks wait, the first one is followed.
    """
    chain: list[asyncio.Task[Any]] = []
    seen = {id(task)}
    while waiting := [other for other in awaiting_tasks(task) if id(other) not in seen]:
        task = waiting[0]
        seen.add(id(task))
        chain.append(task)
    return chain


if sys.version_info >= (3, 14):
    import asyncio.graph

    _add_in_c = asyncio.future_add_to_awaited_by
    _discard_in_c = asyncio.future_discard_from_awaited_by
    _build_graph = vars(asyncio.graph)["_build_graph_for_future"]

    def _is_native(future: object) -> bool:
        return isinstance(future, _ferroloop.Future)

    def future_add_to_awaited_by(fut: Any, waiter: Any, /) -> None:
        """Record that `fut` is awaited on by `waiter`."""
        if isinstance(fut, _ferroloop.Task) and isinstance(waiter, asyncio.Task):
            _ferroloop.add_to_awaited_by(fut, waiter)
        elif _is_native(fut) or _is_native(waiter):
            if asyncio.isfuture(fut) and asyncio.isfuture(waiter):
                _recorded.setdefault(fut, set()).add(waiter)
        else:
            _add_in_c(fut, waiter)

    def future_discard_from_awaited_by(fut: Any, waiter: Any, /) -> None:
        """Record that `fut` is no longer awaited on by `waiter`."""
        if isinstance(fut, _ferroloop.Task):
            _ferroloop.discard_from_awaited_by(fut, waiter)
        if _is_native(fut) or _is_native(waiter):
            if asyncio.isfuture(fut) and (waiters := _recorded.get(fut)) is not None:
                waiters.discard(waiter)
        else:
            _discard_in_c(fut, waiter)

    def _build_graph_for_future(future: Any, *, limit: int | None = None) -> Any:
        """Like asyncio's, plus the tasks of ours that await a C future, which it does not know."""
        graph = _build_graph(future, limit=limit)
        if _is_native(future):
            return graph
        known = {id(parent.future) for parent in graph.awaited_by}
        others = [other for other in awaiting_tasks(future) if id(other) not in known]
        more = [_build_graph_for_future(other, limit=limit) for other in others]
        return replace(graph, awaited_by=(*graph.awaited_by, *more)) if more else graph

    def install(in_lists: bool) -> None:
        """Make asyncio's call graphs include our tasks and futures.

        Args:
            in_lists: whether tools find our tasks in the interpreter's lists. Then they also show
                which tasks wait by `gather()`, a task group and the like, which record it.
        """
        if in_lists:
            futures: Any = asyncio.futures
            futures.future_add_to_awaited_by = _ferroloop.add_to_awaited_by
            futures.future_discard_from_awaited_by = _ferroloop.discard_from_awaited_by
        asyncio.future_add_to_awaited_by = future_add_to_awaited_by
        asyncio.future_discard_from_awaited_by = future_discard_from_awaited_by
        vars(asyncio.graph)["_build_graph_for_future"] = _build_graph_for_future
