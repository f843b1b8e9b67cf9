"""The subclasses of asyncio's stream classes that readers and writers of native transports get.

The native module adds ``read()``, ``drain()`` and the like to them. A reader keeps its state in a
native object; the properties here are for asyncio's own code, which serves what the native methods
leave to it.
"""

import asyncio
from operator import attrgetter
from typing import Any

from ._ferroloop import StreamReaderState, register_streams


def _forwarded(name: str) -> Any:
    def assign(reader: Any, value: object) -> None:
        setattr(reader._ferroloop_state, name, value)

    return property(attrgetter(f"_ferroloop_state.{name}"), assign)


class StreamReader(asyncio.StreamReader):
    """A reader whose state is native."""

    _buffer = _forwarded("_buffer")
    _limit = _forwarded("_limit")
    _eof = _forwarded("_eof")
    _waiter = _forwarded("_waiter")
    _exception = _forwarded("_exception")
    _transport = _forwarded("_transport")
    _paused = _forwarded("_paused")
    _loop = _forwarded("_loop")

    def __new__(cls, *args: Any, **kwargs: Any) -> "StreamReader":
        reader = super().__new__(cls)
        reader.__dict__["_ferroloop_state"] = StreamReaderState()
        return reader

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _PROPERTIES and hasattr(StreamReader, name):
            # A method that the program replaces.
            self.__dict__["_ferroloop_state"].note_attribute()
        super().__setattr__(name, value)


class StreamWriter(asyncio.StreamWriter):
    """A writer with native methods."""


_PROPERTIES = frozenset(
    name for name, kind in vars(StreamReader).items() if isinstance(kind, property)
)

StreamReader.__module__ = StreamWriter.__module__ = "asyncio.streams"

register_streams(StreamReader, StreamWriter)
