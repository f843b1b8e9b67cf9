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
from typing import TYPE_CHECKING, Literal, cast

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
        pool = PoolMetrics(**pool)
    transports = MappingProxyType(numbers.pop("transports"))
    return LoopMetrics(lag=lag, pool=pool, transports=transports, **numbers)


def live_loops() -> list[EventLoop]:
    """Return the loops of ferroloop in this process that have run and are not closed."""
    return cast("list[EventLoop]", _ferroloop.live_loops())


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of `LoopMetrics`, as monitoring systems get it.

    The counters and gauges that each exporter publishes are made from one table, `METRICS`.
    """

    name: str
    """OpenTelemetry's name, without the prefix `ferroloop.`."""
    kind: Literal["counter", "gauge"]
    unit: str
    """OpenTelemetry's unit: `s`, `By`, or what is counted in braces."""
    help: str
    """What it measures, without a full stop."""
    value: Callable[[LoopMetrics], float | None]
    """Reads it from a snapshot. None: the loop has none at present."""

    @property
    def prometheus_name(self) -> str:
        """Prometheus' name, without the prefix: with the unit, and `_total` for a counter."""
        name = self.name.replace(".", "_") + _UNIT_SUFFIXES.get(self.unit, "")
        return name + "_total" if self.kind == "counter" else name


_UNIT_SUFFIXES = {"s": "_seconds", "By": "_bytes"}


def _of_pool(name: str) -> Callable[[LoopMetrics], float | None]:
    return lambda metrics: None if metrics.pool is None else getattr(metrics.pool, name)


METRICS = (
    Metric("turns", "counter", "{turn}", "Turns of the loop", lambda m: m.turns),
    Metric("callbacks", "counter", "{callback}", "Callbacks run", lambda m: m.callbacks),
    Metric("task_steps", "counter", "{step}", "Task steps run", lambda m: m.task_steps),
    Metric("polls", "counter", "{poll}", "Polls of the descriptors", lambda m: m.polls),
    Metric("running", "counter", "s", "Time the loop ran", lambda m: m.time_running),
    Metric("idle", "counter", "s", "Time the loop slept", lambda m: m.time_idle),
    Metric("busy", "counter", "s", "Time the loop worked", lambda m: m.time_busy),
    Metric("ready", "gauge", "{callback}", "Callbacks ready now", lambda m: m.ready),
    Metric(
        "ready_max",
        "gauge",
        "{callback}",
        "Most callbacks ready when a turn began",
        lambda m: m.ready_max,
    ),
    Metric(
        "threadsafe_calls",
        "counter",
        "{call}",
        "Calls of call_soon_threadsafe()",
        lambda m: m.threadsafe_calls,
    ),
    Metric("timers", "gauge", "{timer}", "Timers pending now", lambda m: m.timers),
    Metric(
        "timers_cancelled",
        "gauge",
        "{timer}",
        "Cancelled timers still in memory",
        lambda m: m.timers_cancelled,
    ),
    Metric("accepts", "counter", "{connection}", "Connections accepted", lambda m: m.accepts),
    Metric("received", "counter", "By", "Bytes received", lambda m: m.bytes_received),
    Metric("sent", "counter", "By", "Bytes sent", lambda m: m.bytes_sent),
    Metric(
        "slow_callbacks",
        "counter",
        "{callback}",
        "Callbacks reported as slow",
        lambda m: m.slow_callbacks,
    ),
    Metric("pool.threads", "gauge", "{thread}", "Threads of the pool", _of_pool("threads")),
    Metric(
        "pool.idle_threads",
        "gauge",
        "{thread}",
        "Threads of the pool without a job",
        _of_pool("idle"),
    ),
    Metric(
        "pool.queued_jobs",
        "gauge",
        "{job}",
        "Jobs that no thread has started",
        _of_pool("queued"),
    ),
    Metric("pool.jobs", "counter", "{job}", "Jobs accepted by the pool", _of_pool("jobs")),
)

TRANSPORTS_HELP = "Transports open now"
LAG_HELP = "Duration of the loop's turns, excluding sleep"

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
        lines.append(f"# HELP {prefix}{name} {text}.")
        lines.append(f"# TYPE {prefix}{name} {kind}")

    for metric in METRICS:
        values = [(metrics.number, metric.value(metrics)) for metrics in numbers]
        known = [(number, value) for number, value in values if value is not None]
        name = metric.prometheus_name
        if known:
            head(name, metric.kind, metric.help)
            lines += [f'{prefix}{name}{{loop="{i}"}} {value}' for i, value in known]
    head("transports", "gauge", TRANSPORTS_HELP)
    for metrics in numbers:
        for kind, count in metrics.transports.items():
            lines.append(f'{prefix}transports{{loop="{metrics.number}",kind="{kind}"}} {count}')
    head("lag_seconds", "histogram", LAG_HELP)
    for metrics in numbers:
        lag, number = metrics.lag, metrics.number
        for bound in LAG_BOUNDS:
            below = sum(count for upper, count in lag.buckets if upper <= bound)
            lines.append(f'{prefix}lag_seconds_bucket{{loop="{number}",le="{bound}"}} {below}')
        lines.append(f'{prefix}lag_seconds_bucket{{loop="{number}",le="+Inf"}} {lag.count}')
        lines.append(f'{prefix}lag_seconds_sum{{loop="{number}"}} {lag.sum}')
        lines.append(f'{prefix}lag_seconds_count{{loop="{number}"}} {lag.count}')
    return "\n".join(lines) + "\n"
