"""The metrics of running loops as OpenTelemetry instruments: `pip install ferroloop[otel]`.

from ferroloop.opentelemetry import instrument
instrument()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry import metrics as otel

from . import __version__
from .metrics import LAG_HELP, METRICS, TRANSPORTS_HELP, Metric, live_loops

_LOOP = "ferroloop.loop"


def instrument(meter_provider: Any = None) -> None:
    """Register observable instruments for all loops, including those that are made later.

    Each observation has the attribute `ferroloop.loop`, the number of its loop
    (`LoopMetrics.number`), which never changes.

    Args:
        meter_provider: an `opentelemetry.metrics.MeterProvider`; the global one by default.
    """
    meter = otel.get_meter("ferroloop", __version__, meter_provider=meter_provider)

    def observe(metric: Metric) -> Callable[[Any], Iterable[otel.Observation]]:
        def callback(options: Any) -> Iterable[otel.Observation]:
            for loop in live_loops():
                metrics = loop.metrics()
                found = metric.value(metrics)
                if found is not None:
                    yield otel.Observation(found, {_LOOP: metrics.number})

        return callback

    make = {
        "counter": meter.create_observable_counter,
        "gauge": meter.create_observable_gauge,
    }
    for metric in METRICS:
        name = f"ferroloop.{metric.name}"
        make[metric.kind](name, [observe(metric)], metric.unit, metric.help)

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

    name, unit = "ferroloop.transports", "{transport}"
    meter.create_observable_gauge(name, [transports], unit, TRANSPORTS_HELP)
    meter.create_observable_gauge("ferroloop.lag", [lag], "s", LAG_HELP)
