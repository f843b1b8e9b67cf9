"""``ferroloop.run()``."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .loop import new_event_loop

_T = TypeVar("_T")


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = new_event_loop,
) -> _T:
    """Run a coroutine to its end on a new event loop, as ``asyncio.run()`` does.

    Args:
        main: the coroutine.
        debug: debug mode; asyncio's default if None.
        loop_factory: makes the loop; ours by default.

    Raises:
        RuntimeError: an event loop is running in this thread.

    See https://docs.python.org/3/library/asyncio-runner.html#asyncio.run.
    """
    if sys.version_info >= (3, 12):
        return asyncio.run(main, debug=debug, loop_factory=loop_factory)
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)
