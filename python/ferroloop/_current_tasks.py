"""What code finds that nests tasks by ``asyncio.tasks._current_tasks``, on Python 3.14."""

import asyncio.tasks
import sys
from typing import Any

from . import _ferroloop

_native: Any = sys.modules["_asyncio"]
_NATIVE_TASKS = (_ferroloop.Task, _native.Task)


class _CurrentTasks(dict[Any, Any]):
    """asyncio's dict of current tasks, in which 3.14 has those of its Python classes only.

    Code that nests tasks (nest_asyncio) takes a loop's current task out of it and puts it back. For
    a task in C or of ours that is done where it is kept: in the state of the thread.
    """

    def pop(self, loop: Any, *default: Any) -> Any:
        if loop not in self and loop is asyncio._get_running_loop():
            task = _native._swap_current_task(loop, None)
            if task is not None:
                return task
        return super().pop(loop, *default)

    def __setitem__(self, loop: Any, task: Any) -> None:
        # By type(): ours answer the Python class where a program has put it into asyncio.
        if issubclass(type(task), _NATIVE_TASKS) and loop is asyncio._get_running_loop():
            _native._swap_current_task(loop, task)
        else:
            super().__setitem__(loop, task)


def install() -> None:
    """Put such a dict into asyncio, where it is used by name."""
    tasks: Any = asyncio.tasks
    if type(tasks._current_tasks) is dict:
        tasks._current_tasks = _CurrentTasks(tasks._current_tasks)
