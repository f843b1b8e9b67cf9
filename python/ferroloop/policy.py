"""The event loop policy, for programs that choose their loop that way."""

import asyncio
import sys
import warnings
from typing import TYPE_CHECKING

from .loop import EventLoop, new_event_loop

if TYPE_CHECKING or sys.version_info < (3, 14):
    from asyncio import DefaultEventLoopPolicy as _DefaultEventLoopPolicy
else:
    # The public names warn from 3.14 on; the classes are the same.
    from asyncio.unix_events import _DefaultEventLoopPolicy


class EventLoopPolicy(_DefaultEventLoopPolicy):
    """Policy whose loops are ours.

    See https://docs.python.org/3/library/asyncio-policy.html.
    """

    _loop_factory = EventLoop

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Return a new event loop."""
        return new_event_loop()


def _set_policy(policy: EventLoopPolicy | None) -> None:
    with warnings.catch_warnings():
        # Policies are deprecated from 3.14 on; whoever calls install() knows.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy)


def install() -> None:
    """Make ferroloop the event loop of ``asyncio.run()`` and ``asyncio.new_event_loop()``."""
    _set_policy(EventLoopPolicy())


def uninstall() -> None:
    """Undo ``install()``: asyncio's default policy comes back."""
    _set_policy(None)
