"""The default executor of the loop: a ThreadPoolExecutor whose queue and workers are native."""

import concurrent.futures
import os
from typing import Any

from . import _ferroloop


class _WorkQueue:
    """What monitoring code asks of `executor._work_queue`."""

    def __init__(self, pool: "ThreadPool") -> None:
        self._pool = pool

    def qsize(self) -> int:
        return self._pool._queued()

    def empty(self) -> bool:
        return self._pool._queued() == 0


class ThreadPool(_ferroloop.ThreadPool, concurrent.futures.ThreadPoolExecutor):
    """Threads for `run_in_executor(None, ...)`, started when they are needed.

    The queue and the workers are native; outcomes go to the loop without a
    `concurrent.futures.Future` in between. Used directly it is an executor like any other.
    """

    _broken = False
    _initializer = None
    _initargs: tuple[Any, ...] = ()

    def __new__(cls, max_workers: int | None = None) -> "ThreadPool":
        if max_workers is None:
            cpus = getattr(os, "process_cpu_count", os.cpu_count)() or 1
            max_workers = min(32, cpus + 4)
        return super().__new__(cls, max_workers, "asyncio")

    def __init__(self, max_workers: int | None = None) -> None:
        # ThreadPoolExecutor.__init__ would make a queue and locks that nobody uses.
        pass

    @property
    def _work_queue(self) -> _WorkQueue:  # type: ignore[override]
        return _WorkQueue(self)
