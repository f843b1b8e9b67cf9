"""Workloads under diagnostics: compare each line with that of the workload without them.

Only ferroloop has them; on other loops the workload runs without.
"""

import asyncio
import contextlib
import logging

from benches.workload import timed
from benches.workloads.scheduling import call_soon_chain

GROUP = "callbacks"


@contextlib.contextmanager
def watched():
    """A stall watchdog for the running loop."""
    loop = asyncio.get_running_loop()
    if not hasattr(loop, "metrics"):
        yield
        return
    import ferroloop

    # A stall because the machine is busy is not to be logged.
    logging.getLogger("ferroloop.watchdog").setLevel(logging.CRITICAL)
    with ferroloop.watch(0.1):
        yield


@timed(
    "call-soon-watched", GROUP, "call_soon chain under a stall watchdog (ferroloop only)", 50_000
)
async def call_soon_watched(n):
    with watched():
        return await call_soon_chain(n)


@contextlib.contextmanager
def named():
    """Blocking calls are named in the reports of the running loop."""
    loop = asyncio.get_running_loop()
    if not hasattr(loop, "metrics"):
        yield
        return
    import ferroloop

    with ferroloop.name_blocking_calls():
        yield


@timed(
    "call-soon-reported",
    GROUP,
    "call_soon chain; slow callbacks reported with their cause and call (ferroloop only)",
    50_000,
)
async def call_soon_reported(n):
    loop = asyncio.get_running_loop()
    with watched(), named():
        if hasattr(loop, "metrics"):
            loop.report_slow_callbacks()
        return await call_soon_chain(n)


@timed("open-named", GROUP, "open a file; blocking calls named (ferroloop only)", 20_000)
async def open_named(n):
    opened = 0
    with named():
        for _ in range(n):
            with open("/dev/null", "rb", 0) as file:
                opened += not file.closed
    return opened


async def _echo_once(reader, writer, message, n):
    seen = 0
    for _ in range(n):
        writer.write(message)
        seen += len(await reader.readexactly(len(message))) == len(message)
    return seen


async def _echo_alone(n):
    async def answer(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    try:
        return await _echo_once(reader, writer, b"x" * 1024, n)
    finally:
        writer.close()
        server.close()


@timed("echo-alone", "tcp", "TCP stream echo of 1 KiB inside one loop", 5_000)
async def echo_alone(n):
    return await _echo_alone(n)


@timed("echo-alone-watched", "tcp", "the same under a stall watchdog (ferroloop only)", 5_000)
async def echo_alone_watched(n):
    with watched():
        return await _echo_alone(n)
