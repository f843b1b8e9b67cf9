"""Makes ``asyncio.all_tasks()`` see our tasks.

asyncio keeps its tasks in a ``WeakSet`` that its C code reads too. Putting our tasks in would cost
more than the rest of a task's life, so the set gets a class that also iterates over the native
registry. The object stays the same one, whoever has imported it already.
"""

import asyncio.tasks
import gc
import sys
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import _ferroloop

if TYPE_CHECKING:
    _TaskWeakSet = weakref.WeakSet[Any]
else:
    _TaskWeakSet = weakref.WeakSet


class _TaskSet(_TaskWeakSet):
    """asyncio's set of scheduled tasks, and ours."""

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        yield from _ferroloop.live_tasks()

    def __len__(self) -> int:
        return super().__len__() + len(_ferroloop.live_tasks())

    def __contains__(self, item: object) -> bool:
        return super().__contains__(item) or any(item is task for task in _ferroloop.live_tasks())


def _sets_of_tasks() -> Iterator[Any]:
    """The weak sets that ``all_tasks()`` looks into."""
    if sys.version_info < (3, 12):
        yield vars(asyncio.tasks)["_all_tasks"]
        return
    yield vars(asyncio.tasks)["_scheduled_tasks"]
    if sys.version_info >= (3, 14):
        # From 3.14 on the C implementation has a set of its own, for tasks of other types, which
        # no name leads to. (Imported before asyncio, the C module would not be used by it.)
        module = sys.modules["_asyncio"]
        yield from (found for found in gc.get_referents(module) if type(found) is weakref.WeakSet)


for _set in _sets_of_tasks():
    if type(_set) is weakref.WeakSet:
        _set.__class__ = _TaskSet
