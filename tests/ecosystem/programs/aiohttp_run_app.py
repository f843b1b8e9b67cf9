"""aiohttp.web.run_app under `python -m ferroloop`: SIGTERM lets the last request finish."""

import asyncio

import aiohttp

from ..apps import aiohttp_application
from ..loops import Loop
from ..servers import SECONDS, free_port, serving


async def ask(loop: Loop, port: int) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/who") as response:
            assert (await response.json())["loop"] == loop.name


async def ask_slowly(port: int, terminate) -> str:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        answer = asyncio.ensure_future(session.get("/slow"))
        await asyncio.sleep(aiohttp_application.SLOW_SECONDS / 3)
        terminate()
        async with await answer as response:
            return await response.text()


def main(loop: Loop) -> None:
    port = free_port()
    command = [*loop.interpreter, "-m", "tests.ecosystem.apps.aiohttp_application", str(port)]
    with serving(command, ("127.0.0.1", port)) as server:
        loop.run(ask(loop, port))
        assert loop.run(ask_slowly(port, server.terminate)) == "finished"
        server.wait(SECONDS)
