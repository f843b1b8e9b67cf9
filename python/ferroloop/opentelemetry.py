"""The metrics of running loops as OpenTelemetry instruments: `pip install ferroloop[otel]`.

from ferroloop.opentelemetry import instrument
instrument()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry import metrics as otel

from . import __version__
from .metrics import LoopMetrics, live_loops

_LOOP = "ferroloop.loop"

_Value = Callable[[LoopMetrics], "float | None"]


def _pool(name: str) -> _Value:
    return lambda metrics: None if metrics.pool is None else getattr(metrics.pool, name)


_COUNTERS: tuple[tuple[str, str, str, _Value], ...] = (
    ("turns", "{turn}", "Turns of the loop", lambda m: m.turns),
    ("callbacks", "{callback}", "Callbacks run", lambda m: m.callbacks),
    ("task_steps", "{step}", "Task steps run", lambda m: m.task_steps),
    ("polls", "{poll}", "Polls of the descriptors", lambda m: m.polls),
    ("running", "s", "Time the loop ran", lambda m: m.time_running),
    ("idle", "s", "Time the loop slept", lambda m: m.time_idle),
    ("busy", "s", "Time the loop worked", lambda m: m.time_busy),
    ("threadsafe_calls", "{call}", "Calls of call_soon_threadsafe()", lambda m: m.threadsafe_calls),
    ("accepts", "{connection}", "Connections accepted", lambda m: m.accepts),
    ("received", "By", "Bytes received", lambda m: m.bytes_received),
    ("sent", "By", "Bytes sent", lambda m: m.bytes_sent),
    ("slow_callbacks", "{callback}", "Callbacks reported as slow", lambda m: m.slow_callbacks),
    ("pool.jobs", "{job}", "Jobs accepted by the pool", _pool("jobs")),
)

_GAUGES: tuple[tuple[str, str, str, _Value], ...] = (
    ("ready", "{callback}", "Callbacks ready now", lambda m: m.ready),
    ("timers", "{timer}", "Timers pending now", lambda m: m.timers),
    ("pool.threads", "{thread}", "Threads of the pool", _pool("threads")),
    ("pool.idle_threads", "{thread}", "Threads of the pool without a job", _pool("idle")),
    ("pool.queued", "{job}", "Jobs that no thread has started", _pool("queued")),
)


def instrument(meter_provider: Any = None) -> None:
    """Register observable instruments for all loops, including those that are made later.

    Each observation has the attribute `ferroloop.loop`, the number of its loop
    (`LoopMetrics.number`), which never changes.

    Args:
        meter_provider: an `opentelemetry.metrics.MeterProvider`; the global one by default.
    """
    meter = otel.get_meter("ferroloop", __version__, meter_provider=meter_provider)

    def observe(value: _Value) -> Callable[[Any], Iterable[otel.Observation]]:
        def callback(options: Any) -> Iterable[otel.Observation]:
            for loop in live_loops():
                metrics = loop.metrics()
                found = value(metrics)
                if found is not None:
                    yield otel.Observation(found, {_LOOP: metrics.number})

        return callback

    for name, unit, text, value in _COUNTERS:
        meter.create_observable_counter(f"ferroloop.{name}", [observe(value)], unit, text)
    for name, unit, text, value in _GAUGES:
        meter.create_observable_gauge(f"ferroloop.{name}", [observe(value)], unit, text)

    def transports(options: Any) -> Iterable[otel.Observation]:
        for loop in live_loops():
            metrics = loop.metrics()
            for kind, count in metrics.transports.items():
                yield otel.Observation(count, {_LOOP: metrics.number, "ferroloop.transport": kind})

    def lag(options: Any) -> Iterable[otel.Observation]:
        for loop in live_loops():
            metrics = loop.metrics()
            for quantile in (0.5, 0.9, 0.99, 1.0):
                attributes = {_LOOP: metrics.number, "quantile": quantile}
                yield otel.Observation(metrics.lag.quantile(quantile), attributes)

    text = "Transports open now"
    meter.create_observable_gauge("ferroloop.transports", [transports], "{transport}", text)
    text = "Duration of the loop's turns, excluding sleep, since the loop began to run"
    meter.create_observable_gauge("ferroloop.lag", [lag], "s", text)
