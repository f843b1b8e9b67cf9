"""Makes ``asyncio.run()`` without a loop factory use our loop: with an event loop policy or, where
asyncio no longer has policies (3.16), by replacing ``asyncio.new_event_loop()``.
"""

import asyncio
import sys
import warnings
from typing import TYPE_CHECKING, Any

from .loop import EventLoop, new_event_loop

# The modules in which ``asyncio.run()`` and programs look up the function.
_PLACES: tuple[Any, ...] = (sys.modules["asyncio.events"], asyncio)
_stock_new_event_loop = asyncio.new_event_loop

if TYPE_CHECKING or sys.version_info < (3, 14):
    from asyncio import DefaultEventLoopPolicy as _DefaultEventLoopPolicy
else:
    # The public names warn from 3.14 on; the classes are the same.
    _DefaultEventLoopPolicy = vars(asyncio.unix_events).get("_DefaultEventLoopPolicy", object)


class EventLoopPolicy(_DefaultEventLoopPolicy):
    """Event loop policy that makes our loops. Has no effect where asyncio has no policies.

    See https://docs.python.org/3/library/asyncio-policy.html.
    """

    _loop_factory = EventLoop

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Return a new event loop."""
        return new_event_loop()


def _has_policies() -> bool:
    return "set_event_loop_policy" in vars(asyncio)


def _set_policy(policy: EventLoopPolicy | None) -> None:
    with warnings.catch_warnings():
        # Policies are deprecated from 3.14 on; install() must not warn about that.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy)


def install() -> None:
    """Make ferroloop the event loop of ``asyncio.run()`` and ``asyncio.new_event_loop()``."""
    if _has_policies():
        _set_policy(EventLoopPolicy())
        return
    for module in _PLACES:
        module.new_event_loop = new_event_loop


def uninstall() -> None:
    """Undo ``install()``: restore asyncio's default loop."""
    if _has_policies():
        _set_policy(None)
        return
    for module in _PLACES:
        if module.new_event_loop is new_event_loop:
            module.new_event_loop = _stock_new_event_loop
