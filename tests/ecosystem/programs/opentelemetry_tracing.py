"""OpenTelemetry with its instrumentations for asyncio and threads: the parent of every span."""

import logging
import os
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.asyncio import AsyncioInstrumentor
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ..loops import Loop
from .tracing import requests


def main(loop: Loop) -> None:
    os.environ["OTEL_PYTHON_ASYNCIO_COROUTINE_NAMES_TO_TRACE"] = "in_task"
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer(__name__)

    def job(name: str) -> str:
        with tracer.start_as_current_span(name):
            return name

    async def check() -> None:
        # Twice: before instrumentation, and with it on the pool that exists by then.
        await requests(tracer.start_as_current_span, job)
        exporter.clear()
        AsyncioInstrumentor().instrument()
        ThreadingInstrumentor().instrument()
        await requests(tracer.start_as_current_span, job)
        check_spans(exporter.get_finished_spans())

    loop.run(check())
    exporter.clear()
    # And a loop that is created while instrumented.
    loop.run(requests(tracer.start_as_current_span, job))
    check_spans(exporter.get_finished_spans())


def check_spans(spans: Any) -> None:
    """Each span belongs to the request with its number."""
    names = {span.context.span_id: span for span in spans}
    checked = 0
    for span in spans:
        kind, _, number = span.name.partition(" ")
        if kind not in ("executor", "thread", "task"):
            continue
        above = span
        while above.parent is not None:
            above = names[above.parent.span_id]
        assert above.name == f"request {number}", (span.name, above.name)
        checked += 1
    assert checked == 60, checked
