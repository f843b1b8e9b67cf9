"""Replaces ``asyncio.tasks._current_tasks`` on Python 3.14, for code that nests tasks with it."""

import asyncio.tasks
import sys
from typing import Any

from . import _ferroloop

_native: Any = sys.modules["_asyncio"]
_NATIVE_TASKS = (_ferroloop.Task, _native.Task)


class _CurrentTasks(dict[Any, Any]):
    """asyncio's dict of current tasks; on 3.14 it holds only tasks of asyncio's Python class.

    Code that nests tasks (nest_asyncio) removes a loop's current task from the dict and restores it
    later. asyncio's C tasks and ours are kept in the thread state, so that is done there.
    """

    def pop(self, loop: Any, *default: Any) -> Any:
        if loop not in self and loop is asyncio._get_running_loop():
            task = _native._swap_current_task(loop, None)
            if task is not None:
                return task
        return super().pop(loop, *default)

    def __setitem__(self, loop: Any, task: Any) -> None:
        # type(), because `__class__` of our tasks is asyncio's Python class if a program uses it.
        if issubclass(type(task), _NATIVE_TASKS) and loop is asyncio._get_running_loop():
            _native._swap_current_task(loop, task)
        else:
            super().__setitem__(loop, task)


def install() -> None:
    """Replace asyncio's dict, which asyncio looks up by name."""
    tasks: Any = asyncio.tasks
    if type(tasks._current_tasks) is dict:
        tasks._current_tasks = _CurrentTasks(tasks._current_tasks)
