"""Child processes: asyncio's transports, with their exit watched by the native poller.

asyncio's own child watchers are asked only if the program has chosen one, which it can before
Python 3.14.
"""

import asyncio
import sys
from asyncio import unix_events
from asyncio.log import logger
from typing import Any

if sys.version_info >= (3, 14):
    _ThreadedWatcher = unix_events._ThreadedChildWatcher

    def has_chosen_watcher() -> bool:
        """Whether the program has chosen how asyncio waits for children."""
        return False

else:
    _ThreadedWatcher = unix_events.ThreadedChildWatcher
    _StockPolicy = unix_events.DefaultEventLoopPolicy

    def _is_stock(watcher: asyncio.AbstractChildWatcher | None) -> bool:
        """Whether it is one that a policy makes by itself."""
        if watcher is None:
            return True
        if sys.version_info >= (3, 12) and unix_events.can_use_pidfd():
            return type(watcher) is unix_events.PidfdChildWatcher
        return type(watcher) is _ThreadedWatcher

    def has_chosen_watcher() -> bool:
        """Whether the program has chosen how asyncio waits for children."""
        policy = asyncio.get_event_loop_policy()
        getter = getattr(policy.get_child_watcher, "__func__", None)
        if getter is _StockPolicy.get_child_watcher:
            watcher = policy._watcher  # type: ignore[attr-defined]
            return watcher is not None and not _is_stock(watcher)
        # A policy without watchers leaves it to us.
        return getter is not asyncio.AbstractEventLoopPolicy.get_child_watcher


_fallback = _ThreadedWatcher()


def watch_exit(loop: Any, transport: Any) -> None:
    """Tell the transport when its process has ended. There is no SIGCHLD handler, and no thread
    unless the system has no process descriptor for us."""
    pid = transport.get_pid()
    if not loop._watch_child(pid, _process_exited, transport):
        _fallback.add_child_handler(pid, loop._child_watcher_callback, transport)


def _process_exited(transport: Any, returncode: int | None) -> None:
    if returncode is None:
        # Popen reaps in poll(), which asyncio itself calls in close() and, up to 3.12,
        # in send_signal().
        returncode = transport._proc.returncode
    if returncode is None:
        returncode = 255
        logger.warning(
            "child process pid %d exit status already read:  will report returncode 255",
            transport.get_pid(),
        )
    transport._process_exited(returncode)
