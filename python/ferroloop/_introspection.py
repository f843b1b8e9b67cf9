"""Makes ``asyncio.all_tasks()`` see our tasks.

asyncio keeps its tasks in a ``WeakSet`` that its C code reads too. Putting our tasks in would cost
more than the rest of a task's life, so the set gets a class that also iterates over the native
registry. The object stays the same one, whoever has imported it already.
"""

import asyncio.tasks
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


def _adopt() -> None:
    name = "_scheduled_tasks" if sys.version_info >= (3, 12) else "_all_tasks"
    tasks = getattr(asyncio.tasks, name)
    if type(tasks) is weakref.WeakSet:
        tasks.__class__ = _TaskSet


_adopt()
