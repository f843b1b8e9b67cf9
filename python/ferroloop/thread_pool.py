"""The default executor of the loop: a ThreadPoolExecutor whose queue and workers are native."""

import concurrent.futures
import os
import threading
from collections.abc import Callable
from typing import Any

from . import _ferroloop, _patches


class _WorkQueue:
    """The methods of `executor._work_queue` that monitoring code calls."""

    def __init__(self, pool: "ThreadPool") -> None:
        self._pool = pool

    def qsize(self) -> int:
        return self._pool._queued()

    def empty(self) -> bool:
        return self._pool._queued() == 0


class ThreadPool(_ferroloop.ThreadPool, concurrent.futures.ThreadPoolExecutor):
    """Threads for `run_in_executor(None, ...)`, started on demand.

    The queue and the worker threads are native; results go to the loop without a
    `concurrent.futures.Future` in between. Used directly, it is an executor like any other.

    When a tool has replaced anything that a `ThreadPoolExecutor` calls, the pool becomes a
    `ThreadPoolExecutor` in all respects.
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
        # ThreadPoolExecutor.__init__ would make a queue and locks that are never used.
        pass

    @property
    def _work_queue(self) -> _WorkQueue:  # type: ignore[override]
        return _WorkQueue(self)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call fn(*args, **kwargs) in a thread; return a concurrent.futures.Future.

        Raises:
            RuntimeError: the pool was shut down.
        """
        if _patches.is_executor_replaced():
            return _become_standard(self).submit(fn, *args, **kwargs)
        return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse new calls. With `wait`, return only when all accepted calls are done and the
        threads have ended. `cancel_futures` cancels the calls that no thread has started."""
        if _patches.is_executor_replaced():
            _become_standard(self).shutdown(wait, cancel_futures=cancel_futures)
        else:
            super().shutdown(wait, cancel_futures=cancel_futures)


class _InstanceAttribute:
    """Stores an attribute of `ThreadPoolExecutor` in the instance; the native class has a getter of
    the same name, which this hides.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, pool: Any, owner: type | None = None) -> Any:
        if pool is None:
            return self
        try:
            return pool.__dict__[self._name]
        except KeyError:
            raise AttributeError(self._name) from None

    def __set__(self, pool: Any, value: Any) -> None:
        pool.__dict__[self._name] = value


class _StandardPool(_ferroloop.ThreadPool, concurrent.futures.ThreadPoolExecutor):
    """The class that a pool changes to: concurrent.futures' own code, with new threads. The native
    threads finish the calls that they have accepted, and end."""

    _max_workers: Any = _InstanceAttribute()
    _threads: Any = _InstanceAttribute()
    _thread_name_prefix: Any = _InstanceAttribute()
    _shutdown: Any = _InstanceAttribute()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        with _changing:  # another thread may be changing the pool
            pass
        return super(_ferroloop.ThreadPool, self).submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with _changing:
            pass
        native: Any = _ferroloop.ThreadPool
        native.shutdown(self, wait, cancel_futures=cancel_futures)
        super(_ferroloop.ThreadPool, self).shutdown(wait, cancel_futures=cancel_futures)


# Held while a pool changes. A replaced `ThreadPoolExecutor.__init__` may use the pool.
_changing = threading.RLock()


def _become_standard(pool: Any) -> Any:
    with _changing:
        if type(pool) is _StandardPool:  # another thread was faster
            return pool
        limit, prefix, was_shut = pool._max_workers, pool._thread_name_prefix, pool._shutdown
        native: Any = _ferroloop.ThreadPool
        native.shutdown(pool, False)
        pool.__class__ = _StandardPool
        concurrent.futures.ThreadPoolExecutor.__init__(pool, limit, prefix)
        pool._shutdown = was_shut
        return pool
