"""ddtrace with its integrations for asyncio and futures: the parent of every span.

It does not replace `BaseEventLoop.create_task` but the code object of that function.
"""

import asyncio
import os
from typing import Any

from ..loops import Loop
from .tracing import COUNT, requests

# Set before the import: there is no agent to report to.
os.environ |= {
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_TRACE_STARTUP_LOGS": "false",
}


def main(loop: Loop) -> None:
    import ddtrace
    from ddtrace.trace import TraceFilter, tracer

    spans: list[Any] = []

    class Keep(TraceFilter):
        def process_trace(self, trace: Any) -> None:
            spans.extend(trace)

    tracer.configure(trace_processors=[Keep()])

    def job(name: str) -> str:
        with tracer.trace(name):
            return name

    async def without_a_context_variable() -> None:
        """A task whose parent can only come from `create_task()`."""
        import contextvars

        event_loop = asyncio.get_running_loop()

        async def child() -> None:
            job("task 1000")

        with tracer.trace("request 1000"):
            create = event_loop.create_task
            await create(child(), context=contextvars.Context())

    async def check() -> None:
        await requests(tracer.trace, job)
        spans.clear()
        ddtrace.patch(asyncio=True, futures=True)
        await requests(tracer.trace, job)
        await without_a_context_variable()
        check_spans(spans)

    loop.run(check())
    spans.clear()

    async def check_again() -> None:
        await requests(tracer.trace, job)
        await without_a_context_variable()

    loop.run(check_again())
    check_spans(spans)
    tracer.shutdown()


def check_spans(spans: list[Any]) -> None:
    """Each span belongs to the request with its number."""
    names = {span.span_id: span for span in spans}
    checked = 0
    for span in spans:
        kind, _, number = span.name.partition(" ")
        if kind == "request":
            continue
        assert span.parent_id in names, f"{span.name} has no parent"
        assert names[span.parent_id].name == f"request {number}", span.name
        checked += 1
    assert checked == 6 * COUNT + 1, checked
