"""aiohttp server and client: streams, files, TLS, WebSockets, UNIX sockets, timeouts."""

import asyncio
import hashlib
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiohttp import web

from ..apps import aiohttp_application
from ..certificates import certificates
from ..expected import expected
from ..loops import Loop
from ..servers import free_port

BODY = bytes(range(256)) * 8192


async def check_requests(session: aiohttp.ClientSession, loop: Loop) -> None:
    async def who() -> str:
        async with session.get("/who") as response:
            return (await response.json())["loop"]

    assert await asyncio.gather(*(who() for _ in range(100))) == [loop.name] * 100

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(BODY), 50_000):
            yield BODY[start : start + 50_000]

    async with session.post("/digest", data=body()) as response:
        assert (await response.json())["sha256"] == hashlib.sha256(BODY).hexdigest()
    async with session.get("/count", params={"to": 5000}) as response:
        lines = [int(line) async for line in response.content]
    assert lines == list(range(5000))
    async with session.get("/nowhere") as response:
        assert response.status == 404


async def check_file(session: aiohttp.ClientSession) -> None:
    """A file response is sent by sendfile(), or by its fallback over TLS."""
    async with session.get("/file/large.bin") as response:
        assert await response.read() == BODY
    async with session.get("/file/large.bin", headers={"Range": "bytes=1000-2999"}) as response:
        assert response.status == 206
        assert await response.read() == BODY[1000:3000]


async def check_websocket(session: aiohttp.ClientSession) -> None:
    async with session.ws_connect("/echo", compress=15, max_msg_size=0) as websocket:
        for number in range(200):
            await websocket.send_str(f"message {number}")
            assert await websocket.receive_str() == f"message {number}"
        await websocket.send_bytes(BODY)
        assert await websocket.receive_bytes() == BODY
        await websocket.ping()
    assert websocket.close_code == 1000


async def check_timeout(session: aiohttp.ClientSession) -> None:
    limit = aiohttp.ClientTimeout(total=aiohttp_application.SLOW_SECONDS / 10)
    with expected(TimeoutError):
        await session.get("/slow", timeout=limit)
    task = asyncio.ensure_future(session.get("/slow"))
    await asyncio.sleep(0.05)
    task.cancel()
    with expected(asyncio.CancelledError):
        await task
    async with session.get("/slow") as response:
        assert await response.text() == "finished"


async def check(loop: Loop, origin: str, connector: aiohttp.BaseConnector) -> None:
    async with aiohttp.ClientSession(origin, connector=connector) as session:
        await check_requests(session, loop)
        await check_file(session)
        await check_websocket(session)
        await check_timeout(session)


async def serve_and_check(
    loop: Loop, directory: str, server: ssl.SSLContext, client: ssl.SSLContext
) -> None:
    runner = web.AppRunner(aiohttp_application.make(directory), shutdown_timeout=5)
    await runner.setup()
    plain, secure, unix = free_port(), free_port(), os.path.join(directory, "socket")
    await web.TCPSite(runner, "127.0.0.1", plain).start()
    await web.TCPSite(runner, "127.0.0.1", secure, ssl_context=server).start()
    await web.UnixSite(runner, unix).start()
    await check(loop, f"http://127.0.0.1:{plain}", aiohttp.TCPConnector(limit=20))
    await check(loop, f"https://localhost:{secure}", aiohttp.TCPConnector(ssl=client))
    await check(loop, "http://unix", aiohttp.UnixConnector(unix))
    await runner.cleanup()


def main(loop: Loop) -> None:
    with certificates() as tls, tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory, "large.bin").write_bytes(BODY)
        loop.run(serve_and_check(loop, directory, tls.server(), tls.client()))
