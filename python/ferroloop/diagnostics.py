"""Inspecting running loops: functions for programs, and environment variables.

The modules that implement them are imported on first use: most programs never need them.

    FERROLOOP_WATCH=0.1        watch every loop; the threshold in seconds
    FERROLOOP_INTROSPECT=1     serve `python -m ferroloop top`, `ps`, `stack`; or the socket path
    FERROLOOP_SLOW_CALLBACKS=1 report slow callbacks outside of debug mode
    FERROLOOP_BLOCKING_CALLS=1 name the calls that block in these reports
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .blocking import BlockingCalls
    from .introspection import Introspection
    from .loop import EventLoop
    from .watchdog import Watch

_asked = tuple(
    name
    for name in (
        "FERROLOOP_WATCH",
        "FERROLOOP_INTROSPECT",
        "FERROLOOP_SLOW_CALLBACKS",
        "FERROLOOP_BLOCKING_CALLS",
    )
    if os.environ.get(name, "0") not in ("", "0")
)

# The services that this process runs because of its environment. By process id, because a forked
# child must start its own.
_running: dict[int, list[object]] = {}


def watch(
    threshold: float = 0.1, *, interval: float = 1.0, loop: "EventLoop | None" = None
) -> "Watch":
    """Report loops that do not turn, to the logger `ferroloop.watchdog`, until `stop()`.

    Args:
        threshold: seconds that the callbacks of one turn may take.
        interval: minimum seconds between two reports of stalls. Stalls in between are counted, and
            the next report shows their number.
        loop: the loop to watch; by default all loops of ferroloop in this process, including those
            that are made later.

    Returns a `ferroloop.watchdog.Watch`, which is also a context manager.

    Raises:
        ValueError: the threshold is not a positive number.
        RuntimeError: the interpreter is shutting down.

    `FERROLOOP_WATCH=0.1` in the environment does the same for every loop.
    """
    from .watchdog import Watch

    return Watch(threshold, interval, loop)


def name_blocking_calls(allow: "Iterable[str]" = ()) -> "BlockingCalls":
    """Name the call that blocked in the reports of `watch()` and of slow callbacks, until `stop()`.

    The calls are known from the audit events that the interpreter raises: files, `time.sleep()`
    (from Python 3.13 on), DNS lookups, connections, child processes, sqlite3, imports. The audit
    hook for them cannot be removed: after `stop()` it does nothing, but each audit event of the
    process still calls it.

    Args:
        allow: names of audit events, such as "import", and functions as "FILE:FUNCTION", such as
            "settings.py:load": no stall or slow callback is reported whose longest call is one of
            these or was made inside of one. Debug mode reports it like asyncio.

    Returns a `ferroloop.blocking.BlockingCalls`, which is also a context manager.

    Raises:
        ValueError: an entry of `allow` is neither a known event nor a function.

    `FERROLOOP_BLOCKING_CALLS=1` in the environment does the same.
    """
    from .blocking import BlockingCalls

    return BlockingCalls(allow)


def serve_introspection(path: str | os.PathLike[str] | None = None) -> "Introspection":
    """Let the same user inspect this process with `python -m ferroloop top`, `ps` and `stack`.

    Until `close()`, a thread serves a UNIX socket that only this user can open and through which
    nothing can be changed. It also answers while the loop is blocked, unless other code holds the
    GIL.

    Args:
        path: the path of the socket; by default one that the commands find from the process id.

    Returns a `ferroloop.introspection.Introspection`, which is also a context manager.

    Raises:
        OSError: the socket cannot be made there, or another process serves it already.

    `FERROLOOP_INTROSPECT=1` (or a path) in the environment does the same.
    """
    from .introspection import Introspection

    return Introspection(path)


def loop_made(loop: "EventLoop") -> None:
    """Apply the environment variables to a new loop; the first loop also starts the services."""
    if not _asked:
        return
    if "FERROLOOP_SLOW_CALLBACKS" in _asked:
        loop.report_slow_callbacks()
    process = os.getpid()
    # A thread sets it first, and atomically, so that several threads that make their first loops
    # start the services once, and an invalid variable raises once and not for every loop.
    started: list[object] = []
    if _running.setdefault(process, started) is started:
        for parent in [number for number in list(_running) if number != process]:
            del _running[parent]
        if "FERROLOOP_BLOCKING_CALLS" in _asked:
            started.append(name_blocking_calls())
        if "FERROLOOP_WATCH" in _asked:
            started.append(watch(_seconds(os.environ["FERROLOOP_WATCH"])))
        if "FERROLOOP_INTROSPECT" in _asked:
            path = os.environ["FERROLOOP_INTROSPECT"]
            started.append(serve_introspection(None if path == "1" else path))


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"FERROLOOP_WATCH must be a number of seconds, got {text!r}") from None
