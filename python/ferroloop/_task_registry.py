"""Makes asyncio's registries include our tasks: ``all_tasks()``, and the counter of task names.

From 3.14 on our tasks go to the lists in which the interpreter keeps asyncio's. What follows is for
earlier versions, and if these lists are not found.

asyncio keeps its tasks in a ``WeakSet`` that its C code reads too. Adding our tasks to it would
cost more than everything else that a task does, so the set gets another class, whose data also
include the tasks of the native weak registry. The object stays the same, so modules that have
imported it see our tasks too.
"""

import asyncio.tasks
import gc
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, MutableSet
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import _ferroloop

_CTask = vars(asyncio.tasks).get("_CTask")

if TYPE_CHECKING:
    _Refs = MutableSet[weakref.ref[Any]]

    class _TaskWeakSet(weakref.WeakSet[Any]):
        # Attributes that the stubs leave out.
        data: Any
        _remove: Any
        _iterating: Any
        _pending_removals: Any
        _commit_removals: Any

else:
    _Refs = MutableSet
    _TaskWeakSet = weakref.WeakSet


class _TaskRefs(_Refs):
    """The data of a ``WeakSet`` of tasks: references to asyncio's tasks and to ours.

    Our tasks are members of the native weak registry, which needs no weak references.
    """

    def __init__(self, others: set[weakref.ref[Any]]) -> None:
        self.others = others

    def __iter__(self) -> Iterator[weakref.ref[Any]]:
        yield from self.others
        yield from map(weakref.ref, _ferroloop.live_tasks())

    def __len__(self) -> int:
        return len(self.others) + len(_ferroloop.live_tasks())

    def __contains__(self, item: object) -> bool:
        if item in self.others:
            return True
        task = item() if isinstance(item, weakref.ref) else None
        return isinstance(task, _ferroloop.Task) and _ferroloop.is_listed(task)

    def add(self, value: weakref.ref[Any]) -> None:
        if isinstance(task := value(), _ferroloop.Task):
            _ferroloop.set_listed(task, True)
        else:
            self.others.add(value)

    def discard(self, value: weakref.ref[Any]) -> None:
        if isinstance(task := value(), _ferroloop.Task):
            _ferroloop.set_listed(task, False)
        else:
            self.others.discard(value)

    # Methods that WeakSet or a program calls and that the abstract class does not provide.

    def copy(self) -> set[weakref.ref[Any]]:
        return set(self)

    def union(self, *others: Iterable[Any]) -> set[Any]:
        return set(self).union(*others)

    def intersection(self, *others: Iterable[Any]) -> set[Any]:
        return set(self).intersection(*others)

    def difference(self, *others: Iterable[Any]) -> set[Any]:
        return set(self).difference(*others)

    def symmetric_difference(self, other: Iterable[Any]) -> set[Any]:
        return set(self).symmetric_difference(other)

    def update(self, *others: Iterable[Any]) -> None:
        for other in others:
            for value in other:
                self.add(value)

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return set(it)

    def __repr__(self) -> str:
        return repr(set(self))

    def issubset(self, other: Iterable[Any]) -> bool:
        return set(self).issubset(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        return set(self).issuperset(other)

    def difference_update(self, other: Iterable[Any]) -> None:
        for value in list(other):
            self.discard(value)

    def intersection_update(self, other: Iterable[Any]) -> None:
        self.difference_update(set(self).difference(other))

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        for value in set(other):
            if value in self:
                self.discard(value)
            else:
                self.add(value)


class _TaskSet(_TaskWeakSet):
    """The class of asyncio's set of scheduled tasks, and of no other set."""

    # References to asyncio's tasks: the original data of the set.
    _others: set[weakref.ref[Any]]

    # Before 3.14 C code calls these for each task of asyncio, so they use no more frames than
    # those of a `WeakSet`.
    if sys.version_info < (3, 14):
        # For releases whose `WeakSet` removes references at once.
        _pending_removals: Any = ()

        def add(self, item: Any) -> None:
            if type(item) is not _CTask and isinstance(item, _ferroloop.Task):
                _ferroloop.set_listed(item, True)
                return
            if self._pending_removals:
                self._commit_removals()
            self._others.add(weakref.ref(item, self._remove))

        def discard(self, item: Any) -> None:
            if type(item) is not _CTask and isinstance(item, _ferroloop.Task):
                _ferroloop.set_listed(item, False)
                return
            if self._pending_removals:
                self._commit_removals()
            self._others.discard(weakref.ref(item))

    # `copy()`, `union()` and the like make new sets, which are ordinary ones.
    def __new__(cls, data: Iterable[Any] | None = None) -> Any:
        return weakref.WeakSet(data or ())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, weakref.WeakSet):
            return NotImplemented
        return set(self) == set(other)

    __hash__ = None  # type: ignore[assignment]


def _sets_of_tasks() -> Iterator[Any]:
    """The weak sets that ``all_tasks()`` reads."""
    if sys.version_info < (3, 12):
        yield vars(asyncio.tasks)["_all_tasks"]
        return
    yield vars(asyncio.tasks)["_scheduled_tasks"]
    if sys.version_info >= (3, 14):
        # From 3.14 on the C module has its own set for tasks of other types, without a name that
        # leads to it. (If the C module is imported before asyncio, asyncio does not use it.)
        module = sys.modules["_asyncio"]
        yield from (found for found in gc.get_referents(module) if type(found) is weakref.WeakSet)


class _InertLoop:
    """The methods that a new task calls on its loop; the step of the task never runs."""

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> None:
        pass


def _new_task(module: ModuleType, name: str | None = None) -> Any:
    """Make a task of asyncio's C module that never runs."""

    async def nothing() -> None:
        pass

    coroutine = nothing()
    task = module.Task(coroutine, loop=_InertLoop(), name=name)
    task._log_destroy_pending = False
    coroutine.close()
    return task


def _number_of_a_new_task(module: ModuleType) -> int:
    """Make an unnamed task of asyncio's C module; return the number in its automatic name."""
    return int(_new_task(module).get_name().removeprefix("Task-"))


def _removing(tasks: _TaskSet) -> Callable[[weakref.ref[Any]], None]:
    """Return the weak reference callback for asyncio's tasks: that of a `WeakSet`, with one call
    less.
    """
    others = tasks._others
    selfref = weakref.ref(tasks)

    def remove(reference: weakref.ref[Any]) -> None:
        if (tasks := selfref()) is not None:
            if tasks._iterating:
                tasks._pending_removals.append(reference)
            else:
                others.discard(reference)

    return remove


def _include_ours(tasks: Any) -> None:
    tasks.__class__ = _TaskSet
    tasks._others = tasks.data
    tasks.data = _TaskRefs(tasks._others)
    if sys.version_info < (3, 14):
        tasks._remove = _removing(tasks)


def _share_task_counter(module: ModuleType) -> None:
    _ferroloop.share_task_counter(module, lambda: _number_of_a_new_task(module))


def _registering(listed: bool, of_asyncio: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return `_register_task()` or `_unregister_task()` for all classes of tasks.

    asyncio's functions have a set for tasks of other classes than theirs.
    """

    def register(task: Any) -> None:
        # By the actual type: tasks of asyncio have no other `__class__`, ours have.
        if issubclass(type(task), _ferroloop.Task):
            _ferroloop.set_listed(task, listed)
        else:
            of_asyncio(task)

    return register


def _join_lists(module: Any) -> bool:
    """Put our tasks into the interpreter's lists; return whether they are there."""
    if asyncio.tasks.all_tasks is not module.all_tasks:
        return False
    if not _ferroloop.join_task_lists(module, lambda name: _new_task(module, name)):
        return False
    for name, listed in (("_register_task", True), ("_unregister_task", False)):
        function = _registering(listed, getattr(module, name))
        function.__name__ = name
        for place in (asyncio.tasks, asyncio):
            setattr(place, name, function)
    return True


def install() -> None:
    """Change asyncio's sets and its counter. The import does not: it may be lazy
    (`-X lazy_imports=all`).
    """
    joined = (
        sys.version_info >= (3, 14)
        and "_asyncio" in sys.modules
        and _join_lists(sys.modules["_asyncio"])
    )
    for tasks in _sets_of_tasks():
        if not joined and type(tasks) is weakref.WeakSet:
            _include_ours(tasks)
    if "_asyncio" in sys.modules:
        _share_task_counter(sys.modules["_asyncio"])
    if sys.version_info >= (3, 14):
        if "_asyncio" in sys.modules:
            from . import _current_tasks

            _current_tasks.install()

        # asyncio's C code has no way to find the tasks that await a future of ours.
        from . import call_graph

        call_graph.install(joined)
