"""The metrics of a loop, and their export to monitoring systems.

    loop.metrics().utilization          # share of its running time that the loop was busy
    print(render_prometheus())          # all loops of this process, in Prometheus' text format

The counters are always on. Any thread may read them while the loop runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from . import _ferroloop

if TYPE_CHECKING:
    from .loop import EventLoop


@dataclass(frozen=True, slots=True)
class Lag:
    """The durations of a loop's turns, excluding sleep: the longest that an event may have waited.

    A loop that polls nothing and has no timers measures quick turns in groups of up to 64, whose
    members count as equally long. A turn that takes some milliseconds ends its group and is counted
    individually. If quick turns take less than 0.6 microseconds, the first two to eight long turns
    in a row may be counted as one.
    """

    buckets: tuple[tuple[float, int], ...]
    """`(bound, count)`: the number of turns shorter than `bound` seconds but not shorter than the
    previous bound. Ascending, without empty buckets; the last bound may be infinite."""
    count: int
    """Turns measured."""
    sum: float
    """Total duration of the turns, in seconds."""
    max: float
    """Duration of the longest turn, in seconds."""

    def quantile(self, q: float) -> float:
        """Return the duration that a share `q` (0 to 1) of the turns did not exceed.

        The result is an upper bound, at most an eighth too high. 0.0 if there was no turn.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile must be between 0 and 1, got {q!r}")
        wanted, seen = math.ceil(q * self.count), 0
        for bound, count in self.buckets:
            seen += count
            if seen >= wanted:
                return min(bound, self.max)
        return self.max

    @property
    def p50(self) -> float:
        """Seconds that half of the turns did not exceed."""
        return self.quantile(0.50)

    @property
    def p90(self) -> float:
        """Seconds that 90 % of the turns did not exceed."""
        return self.quantile(0.90)

    @property
    def p99(self) -> float:
        """Seconds that 99 % of the turns did not exceed."""
        return self.quantile(0.99)


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """The threads behind `run_in_executor(None, ...)`."""

    threads: int
    """Threads started."""
    idle: int
    """Threads that wait for a job."""
    limit: int
    """Maximum number of threads."""
    queued: int
    """Jobs that no thread has started."""
    jobs: int
    """Jobs accepted so far."""


@dataclass(frozen=True, slots=True)
class LoopMetrics:
    """A snapshot of the metrics of one event loop. Counters only grow, unless stated otherwise."""

    number: int
    """The number of the loop in this process: from 0, in the order in which loops are made. A
    number is never reused."""
    turns: int
    """Turns of the loop."""
    callbacks: int
    """Callbacks run, task steps and I/O included; up to the end of the last turn."""
    task_steps: int
    """Steps of tasks among the callbacks."""
    polls: int
    """Polls of the descriptors."""
    time_running: float
    """Seconds that the loop has run, including sleep."""
    time_idle: float
    """Seconds that the loop slept because it had nothing to do."""
    ready: int
    """Callbacks ready now, including those that other threads scheduled: there is one queue."""
    ready_max: int
    """Maximum number of callbacks that were ready at the beginning of a turn."""
    threadsafe_calls: int
    """Calls of `call_soon_threadsafe()`."""
    timers: int
    """Timers pending now."""
    timers_cancelled: int
    """Cancelled timers that are still in memory."""
    transports: Mapping[str, int] = field(hash=False)
    """Transports open now: `stream`, `datagram`, `pipe`, `tls`. A TLS transport counts in addition
    to the transport below it."""
    accepts: int
    """Connections that servers accepted."""
    bytes_received: int
    """Bytes that transports and `sock_*()` received."""
    bytes_sent: int
    """Bytes that transports and `sock_*()` sent."""
    slow_callbacks: int
    """Callbacks reported as slow: in debug mode, or with `report_slow_callbacks()`."""
    lag: Lag
    """The durations of the turns."""
    pool: PoolMetrics | None
    """The default executor; None before its first use, or if it is not the loop's own."""

    @property
    def time_busy(self) -> float:
        """Seconds that the loop ran callbacks or polled."""
        return max(0.0, self.time_running - self.time_idle)

    @property
    def utilization(self) -> float:
        """Share of the running time that the loop was busy, 0 to 1. 0.0 before the first run.

        For the utilization of a period, compare `time_busy` and `time_running` of two snapshots.
        """
        return self.time_busy / self.time_running if self.time_running else 0.0


def snapshot(loop: _ferroloop.EventLoop) -> LoopMetrics:
    """Return the metrics of `loop`; `loop.metrics()` calls this."""
    numbers = loop._metrics()
    buckets = tuple(numbers.pop("lag_buckets"))
    lag = Lag(
        buckets=buckets,
        count=sum(count for _, count in buckets),
        sum=numbers.pop("lag_sum"),
        max=numbers.pop("lag_max"),
    )
    pool = numbers.pop("pool")
    if pool is not None:
        threads, idle, queued, jobs, limit = pool
        pool = PoolMetrics(threads=threads, idle=idle, limit=limit, queued=queued, jobs=jobs)
    transports = MappingProxyType(numbers.pop("transports"))
    return LoopMetrics(lag=lag, pool=pool, transports=transports, **numbers)


def live_loops() -> list[EventLoop]:
    """Return the loops of ferroloop in this process that have run and are not closed."""
    return cast("list[EventLoop]", _ferroloop.live_loops())


@dataclass(frozen=True, slots=True)
class _Family:
    """A metric family: name, type and help text for Prometheus, and a function for the value."""

    name: str
    kind: str
    help: str
    value: Callable[[LoopMetrics], float | None]


def _of_pool(name: str) -> Callable[[LoopMetrics], float | None]:
    return lambda metrics: None if metrics.pool is None else getattr(metrics.pool, name)


FAMILIES = (
    _Family("turns_total", "counter", "Turns of the loop.", lambda m: m.turns),
    _Family("callbacks_total", "counter", "Callbacks run.", lambda m: m.callbacks),
    _Family("task_steps_total", "counter", "Task steps run.", lambda m: m.task_steps),
    _Family("polls_total", "counter", "Polls of the descriptors.", lambda m: m.polls),
    _Family("running_seconds_total", "counter", "Time the loop ran.", lambda m: m.time_running),
    _Family("idle_seconds_total", "counter", "Time the loop slept.", lambda m: m.time_idle),
    _Family("busy_seconds_total", "counter", "Time the loop worked.", lambda m: m.time_busy),
    _Family("ready", "gauge", "Callbacks ready now.", lambda m: m.ready),
    _Family("ready_max", "gauge", "Most callbacks ready when a turn began.", lambda m: m.ready_max),
    _Family(
        "threadsafe_calls_total",
        "counter",
        "Calls of call_soon_threadsafe().",
        lambda m: m.threadsafe_calls,
    ),
    _Family("timers", "gauge", "Timers pending now.", lambda m: m.timers),
    _Family(
        "timers_cancelled",
        "gauge",
        "Cancelled timers still in memory.",
        lambda m: m.timers_cancelled,
    ),
    _Family("accepts_total", "counter", "Connections accepted.", lambda m: m.accepts),
    _Family("received_bytes_total", "counter", "Bytes received.", lambda m: m.bytes_received),
    _Family("sent_bytes_total", "counter", "Bytes sent.", lambda m: m.bytes_sent),
    _Family(
        "slow_callbacks_total", "counter", "Callbacks reported as slow.", lambda m: m.slow_callbacks
    ),
    _Family("pool_threads", "gauge", "Threads of the pool.", _of_pool("threads")),
    _Family("pool_idle_threads", "gauge", "Threads of the pool without a job.", _of_pool("idle")),
    _Family("pool_queued_jobs", "gauge", "Jobs that no thread has started.", _of_pool("queued")),
    _Family("pool_jobs_total", "counter", "Jobs accepted.", _of_pool("jobs")),
)

# Bounds in seconds that every scrape shows: Prometheus requires that they do not change.
LAG_BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


def render_prometheus(
    loops: Iterable[EventLoop] | None = None, *, prefix: str = "ferroloop_"
) -> str:
    """Return the metrics of `loops`, by default of `live_loops()`, in Prometheus' text format.

    Each sample is labelled with the number of its loop, `LoopMetrics.number`: `loop="0"` and so on.
    """
    numbers = [loop.metrics() for loop in (live_loops() if loops is None else loops)]
    numbers.sort(key=lambda metrics: metrics.number)
    lines: list[str] = []

    def head(name: str, kind: str, text: str) -> None:
        lines.append(f"# HELP {prefix}{name} {text}")
        lines.append(f"# TYPE {prefix}{name} {kind}")

    for family in FAMILIES:
        values = [(metrics.number, family.value(metrics)) for metrics in numbers]
        known = [(number, value) for number, value in values if value is not None]
        if known:
            head(family.name, family.kind, family.help)
            lines += [f'{prefix}{family.name}{{loop="{i}"}} {value}' for i, value in known]
    head("transports", "gauge", "Transports open now.")
    for metrics in numbers:
        for kind, count in metrics.transports.items():
            lines.append(f'{prefix}transports{{loop="{metrics.number}",kind="{kind}"}} {count}')
    head("lag_seconds", "histogram", "Duration of the loop's turns, excluding sleep.")
    for metrics in numbers:
        lag, number = metrics.lag, metrics.number
        for bound in LAG_BOUNDS:
            below = sum(count for upper, count in lag.buckets if upper <= bound)
            lines.append(f'{prefix}lag_seconds_bucket{{loop="{number}",le="{bound}"}} {below}')
        lines.append(f'{prefix}lag_seconds_bucket{{loop="{number}",le="+Inf"}} {lag.count}')
        lines.append(f'{prefix}lag_seconds_sum{{loop="{number}"}} {lag.sum}')
        lines.append(f'{prefix}lag_seconds_count{{loop="{number}"}} {lag.count}')
    return "\n".join(lines) + "\n"
