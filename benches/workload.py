"""What a workload is, and the table in which workloads are registered.

There are three kinds:

* ``timed``: a coroutine function ``run(n)`` that does `n` operations and returns how many of them
  succeeded. The worker times it and rejects a count other than `n`.
* ``measured``: a function ``measure(new_event_loop, n)`` that returns its own figure (bytes, or
  nanoseconds that the worker can't time from outside).
* ``served``: an async context manager ``serve(endpoint)`` that yields the address it serves at;
  the native load generator drives it from another process and checks every reply.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

Kind = Literal["timed", "measured", "served"]
Unit = Literal["ns", "bytes"]


@dataclass(frozen=True)
class Workload:
    """One line of the table."""

    name: str
    group: str
    title: str
    kind: Kind
    run: Callable[..., Any]
    #: operations in one sample (``timed``, ``measured``)
    n: int
    #: unit of the cost of one operation; less is better for both
    unit: Unit = "ns"
    #: oldest Python that has the features that the workload uses
    python: tuple[int, int] = (3, 11)
    #: third-party modules it imports
    modules: tuple[str, ...] = ()
    #: arguments of the load generator (``served``)
    load: tuple[str, ...] = ()
    #: report the time within which this percentage of replies comes, at half load (``served``)
    percentage: str = ""
    #: measure a fresh process: no warm-up sample, initial thresholds of the allocator
    young: bool = False
    #: may use more than one core (thread pools, child processes)
    parallel: bool = False
    #: too large for one process per loop at the same time
    large: bool = False
    #: process-wide preparation before the loop exists
    prepare: Callable[[], None] | None = None

    @property
    def once(self) -> bool:
        """Whether a process gives one figure only: of its beginning, or of its growth."""
        return self.young or self.kind == "measured" or self.unit == "bytes"

    @property
    def together(self) -> bool:
        """Whether the processes of the loops exist side by side and take turns."""
        return not (self.once or self.large)

    @property
    def module(self) -> str:
        """The module that registers it: a worker imports only this one."""
        run = self.run.func if isinstance(self.run, partial) else self.run
        return run.__module__


#: groups in the order of the table
GROUPS = (
    "callbacks",
    "tasks",
    "threads",
    "tcp",
    "unix",
    "udp",
    "tls",
    "processes",
    "names",
    "servers",
    "latency",
    "memory",
    "startup",
)
WORKLOADS: dict[str, Workload] = {}


def register(workload: Workload) -> None:
    """Add a workload; names are unique because ``--only`` and the JSON files use them."""
    if workload.group not in GROUPS:
        raise ValueError(f"no such group: {workload.group}")
    if workload.name in WORKLOADS:
        raise ValueError(f"two workloads are called {workload.name}")
    WORKLOADS[workload.name] = workload


def timed(name: str, group: str, title: str, n: int, **options: Any) -> Callable[..., Any]:
    """Register the decorated coroutine function as a ``timed`` workload."""

    def decorate(run: Callable[..., Any]) -> Callable[..., Any]:
        register(Workload(name, group, title, "timed", run, n, **options))
        return run

    return decorate


def measured(name: str, group: str, title: str, n: int, **options: Any) -> Callable[..., Any]:
    """Register the decorated function as a ``measured`` workload."""

    def decorate(run: Callable[..., Any]) -> Callable[..., Any]:
        register(Workload(name, group, title, "measured", run, n, **options))
        return run

    return decorate


def served(
    name: str, group: str, title: str, serve: Callable[..., Any], *load: str, **options: Any
) -> None:
    """Register a server; a function, not a decorator, as one server takes many loads."""
    register(Workload(name, group, title, "served", serve, 0, load=load, **options))


def all_workloads() -> list[Workload]:
    """Every registered workload in the order of the table."""
    return sorted(WORKLOADS.values(), key=lambda workload: GROUPS.index(workload.group))
