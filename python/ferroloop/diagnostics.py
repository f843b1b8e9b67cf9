"""Looking at running loops: what a program calls, and what its environment asks for.

The modules behind it are imported when they are used: most programs never need them.

    FERROLOOP_WATCH=0.1        watch every loop; the threshold in seconds
    FERROLOOP_INTROSPECT=1     serve `python -m ferroloop top` and its like; or the socket's path
    FERROLOOP_SLOW_CALLBACKS=1 report slow callbacks outside of debug mode
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .introspection import Introspection
    from .loop import EventLoop
    from .watchdog import Watch

_asked = tuple(
    name
    for name in ("FERROLOOP_WATCH", "FERROLOOP_INTROSPECT", "FERROLOOP_SLOW_CALLBACKS")
    if os.environ.get(name, "0") not in ("", "0")
)

# What the environment asked for and this process runs: by process, since a fork's child has to
# start its own.
_running: dict[int, list[object]] = {}


def watch(
    threshold: float = 0.1, *, interval: float = 1.0, loop: "EventLoop | None" = None
) -> "Watch":
    """Report loops that do not turn, to the logger `ferroloop.watchdog`, until `stop()`.

    Args:
        threshold: seconds that the callbacks of one turn may take.
        interval: least seconds between two reports of stalls. Those in between are counted, and
            the next report tells how many there were.
        loop: the one loop to watch; all loops of ferroloop in this process by default, also those
            that are made later.

    Returns a `ferroloop.watchdog.Watch`, which is a context manager, too.

    Raises:
        ValueError: the threshold is not a positive number.
        RuntimeError: the interpreter is shutting down.

    `FERROLOOP_WATCH=0.1` in the environment does the same for every loop.
    """
    from .watchdog import Watch

    return Watch(threshold, interval, loop)


def serve_introspection(path: str | os.PathLike[str] | None = None) -> "Introspection":
    """Let the same user look at this process: `python -m ferroloop top`, `ps` and `stack`.

    A thread serves a UNIX socket that only this user can open and that only reads, until
    `close()`. It answers while the loop is blocked, unless the GIL is.

    Args:
        path: where the socket is made; by default where those commands find it by the number of
            the process.

    Returns a `ferroloop.introspection.Introspection`, which is a context manager, too.

    Raises:
        OSError: the socket cannot be made there, or somebody serves it already.

    `FERROLOOP_INTROSPECT=1` (or a path) in the environment does the same.
    """
    from .introspection import Introspection

    return Introspection(path)


def loop_made(loop: "EventLoop") -> None:
    """Do what the environment asks for, when the first loop of a process is made."""
    if not _asked:
        return
    if "FERROLOOP_SLOW_CALLBACKS" in _asked:
        loop.report_slow_callbacks()
    if os.getpid() not in _running:
        started: list[object] = []
        # Noted first: a mistake in the environment is raised once, not by every loop.
        _running.clear()
        _running[os.getpid()] = started
        if "FERROLOOP_WATCH" in _asked:
            started.append(watch(_seconds(os.environ["FERROLOOP_WATCH"])))
        if "FERROLOOP_INTROSPECT" in _asked:
            path = os.environ["FERROLOOP_INTROSPECT"]
            started.append(serve_introspection(None if path == "1" else path))


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"FERROLOOP_WATCH is to be a number of seconds, got {text!r}") from None
