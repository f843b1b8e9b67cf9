"""`loop._ready` and `loop._selector`, for code that turns the loop itself.

asyncio's own code does so while a tool has replaced one of its methods; nest_asyncio always does.
"""

import asyncio
import selectors
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, SupportsIndex

if TYPE_CHECKING:
    from .loop import EventLoop

_Handles = tuple[asyncio.Handle | None, asyncio.Handle | None]


def _descriptor(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


class _Watched(Mapping[Any, selectors.SelectorKey]):
    """The mapping that `selector.get_map()` returns, for lookups of single descriptors."""

    def __init__(self, selector: "_SelectorView") -> None:
        self._selector = selector

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.get_key(fileobj)

    def __iter__(self) -> Iterator[int]:
        loop = self._selector._loop()
        return iter(() if loop is None else loop._watched_descriptors())

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _SelectorView:
    """The methods of a selector that asyncio's own code calls, on the native poller."""

    def __init__(self, loop: "EventLoop") -> None:
        self._loop = weakref.ref(loop)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        # Tools with a virtual clock replace `select`.
        if name == "select" and (loop := self._loop()) is not None:
            loop._use_foreign_select(True)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        if name == "select" and (loop := self._loop()) is not None:
            loop._use_foreign_select(False)

    def select(self, timeout: float | None = None) -> list[None]:
        """Poll. The native poller queues the ready callbacks; the list has an item for each."""
        loop = self._loop()
        return [] if loop is None else [None] * loop._select(timeout)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        loop = self._loop()
        fd = _descriptor(fileobj)
        events = 0 if loop is None else loop._watched_events(fd)
        if loop is None or not events:
            raise KeyError(f"{fileobj!r} is not registered")
        return selectors.SelectorKey(fileobj, fd, events, loop._watched_handles(fd))

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return _Watched(self)

    def register(self, fileobj: Any, events: int, data: _Handles) -> selectors.SelectorKey:
        return self.modify(fileobj, events, data)

    def modify(self, fileobj: Any, events: int, data: _Handles) -> selectors.SelectorKey:
        """Watch the directions that have a handle. Unlike `loop._add_reader`, cancel no handle."""
        loop = self._loop()
        if loop is None:
            raise RuntimeError("the loop no longer exists")
        reader, writer = data
        loop._watch_handles(
            _descriptor(fileobj),
            reader if events & selectors.EVENT_READ else None,
            writer if events & selectors.EVENT_WRITE else None,
        )
        return self.get_key(fileobj)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self.get_key(fileobj)
        if (loop := self._loop()) is not None:
            loop._watch_handles(key.fd, None, None)
        return key

    def close(self) -> None:
        """Do nothing: the loop closes its poller."""


class _ReadyView:
    """The ready queue, with the interface of the deque `loop._ready`.

    An entry that is read, such as the step of a task, becomes the handle that asyncio would have
    queued, and remains one.
    """

    __slots__ = ("_loop",)

    def __init__(self, loop: "EventLoop") -> None:
        self._loop = weakref.ref(loop)

    @property
    def maxlen(self) -> None:
        return None

    def _snapshot(self) -> deque[asyncio.Handle]:
        loop = self._loop()
        return deque() if loop is None else deque(loop._ready_handles())

    def _change(self, name: str, *arguments: Any) -> Any:
        """Call a method on a deque of the handles, and queue the handles that remain in it."""
        handles = self._snapshot()
        result = getattr(handles, name)(*arguments)
        if (loop := self._loop()) is not None:
            loop._set_ready_handles(list(handles))
        return result

    def __len__(self) -> int:
        loop = self._loop()
        return 0 if loop is None else loop._ready_count()

    def __bool__(self) -> bool:
        return len(self) != 0

    def __iter__(self) -> Iterator[asyncio.Handle]:
        return iter(self._snapshot())

    def __reversed__(self) -> Iterator[asyncio.Handle]:
        return reversed(self._snapshot())

    def __contains__(self, handle: object) -> bool:
        return handle in self._snapshot()

    def __getitem__(self, index: SupportsIndex) -> asyncio.Handle:
        return self._snapshot()[index]

    def __setitem__(self, index: SupportsIndex, handle: asyncio.Handle) -> None:
        self._change("__setitem__", index, handle)

    def __delitem__(self, index: SupportsIndex) -> None:
        self._change("__delitem__", index)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _ReadyView):
            return self._snapshot() == other._snapshot()
        return self._snapshot() == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._snapshot())

    def __copy__(self) -> deque[asyncio.Handle]:
        return self._snapshot()

    def __add__(self, other: deque[asyncio.Handle]) -> Any:
        return self._snapshot() + other

    def __iadd__(  # type: ignore[misc, unused-ignore]
        self, other: Iterable[asyncio.Handle]
    ) -> Any:
        self.extend(other)
        return self

    def popleft(self) -> asyncio.Handle:
        """Remove and return the handle that runs next."""
        loop = self._loop()
        if loop is None:
            raise IndexError("pop from an empty deque")
        return loop._take_ready()

    def append(self, handle: asyncio.Handle) -> None:
        """Queue a handle."""
        if (loop := self._loop()) is not None:
            loop._queue_handle(handle)

    def extend(self, handles: Iterable[asyncio.Handle]) -> None:
        for handle in list(handles):
            self.append(handle)

    def appendleft(self, handle: asyncio.Handle) -> None:
        self._change("appendleft", handle)

    def extendleft(self, handles: Iterable[asyncio.Handle]) -> None:
        self._change("extendleft", list(handles))

    def pop(self) -> asyncio.Handle:
        handle: asyncio.Handle = self._change("pop")
        return handle

    def insert(self, index: int, handle: asyncio.Handle) -> None:
        self._change("insert", index, handle)

    def remove(self, handle: asyncio.Handle) -> None:
        self._change("remove", handle)

    def rotate(self, n: int = 1) -> None:
        self._change("rotate", n)

    def reverse(self) -> None:
        self._change("reverse")

    def clear(self) -> None:
        """Remove all entries."""
        self._change("clear")

    def copy(self) -> deque[asyncio.Handle]:
        return self._snapshot()

    def count(self, handle: asyncio.Handle) -> int:
        return self._snapshot().count(handle)

    def index(self, handle: asyncio.Handle, *limits: int) -> int:
        return self._snapshot().index(handle, *limits)
