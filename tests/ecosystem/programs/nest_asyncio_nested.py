"""nest_asyncio: run_until_complete and asyncio.run inside a running loop, tasks around them."""

import asyncio
import importlib
from typing import Any

from ..expected import expected
from ..loops import Loop, running


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    writer.close()
    await writer.wait_closed()


async def ask(port: int, number: int) -> int:
    """Timers, sockets and a thread, from a nested run."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(0.005)
    writer.write(b"%d\n" % number)
    answer = int(await reader.readline())
    writer.close()
    await writer.wait_closed()
    assert asyncio.current_task() is not None
    return await asyncio.to_thread(abs, -answer)


def nested(depth: int, port: int) -> int:
    """Synchronous code that runs the loop, which runs synchronous code, and so on."""

    async def descend() -> int:
        below = nested(depth - 1, port) if depth else 0
        return below + await ask(port, depth)

    return asyncio.get_event_loop().run_until_complete(descend())


async def fail() -> None:
    await asyncio.sleep(0)
    raise KeyError("from a nested run")


async def check(name: str) -> None:
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            ticks.append(len(ticks))
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    this = asyncio.current_task()
    for _ in range(5):
        assert nested(4, port) == 0 + 1 + 2 + 3 + 4
        assert asyncio.current_task() is this
        await asyncio.sleep(0)
        assert asyncio.current_task() is this
    assert len(ticks) > 5, "the other tasks wait during a nested run"
    assert asyncio.run(ask(port, 7)) == 7
    with expected(KeyError):
        loop.run_until_complete(fail())
    later = asyncio.create_task(ask(port, 8))
    assert loop.run_until_complete(later) == await later == 8
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)
    server.close()
    await server.wait_closed()
    assert running() == name


async def apply_and_check(name: str, nest: Any) -> None:
    nest.apply()
    for _ in range(3):
        await check(name)


def main(loop: Loop, module: str = "nest_asyncio") -> None:
    loop.install()
    event_loop = loop.factory()
    asyncio.set_event_loop(event_loop)
    # First inside a loop that is already running, as in a notebook; then the loop is run by
    # nest_asyncio's own code.
    event_loop.run_until_complete(apply_and_check(loop.name, importlib.import_module(module)))
    event_loop.run_until_complete(check(loop.name))
    event_loop.run_until_complete(event_loop.shutdown_default_executor())
    event_loop.close()
