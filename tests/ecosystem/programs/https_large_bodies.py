"""Large bodies over HTTPS by aiohttp, uvicorn and asyncio's streams, to a client that pauses.

Each body arrives complete, the loop sleeps afterwards, and the next request is served, on the same
connection or on a new one.
"""

import asyncio
import contextlib
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Callable

import uvicorn
from aiohttp import web

from ...support.registrations import assert_sleeps
from ..certificates import Certificates, certificates
from ..loops import Loop
from ..servers import free_port

MILLION = 1_000_000
SIZES = [1_500_000, 6 * MILLION, 20 * MILLION]
LARGEST = 100 * MILLION  # with LARGE_BODIES=1
PIECE = bytes(range(251)) * 400


def body(size: int) -> bytes:
    return (PIECE * (1 + size // len(PIECE)))[:size]


@contextlib.asynccontextmanager
async def aiohttp_server(tls: Certificates) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body(int(request.match_info["size"])))

    application = web.Application()
    application.router.add_get("/{size}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls.server()).start()
    yield port
    await runner.cleanup()


@contextlib.asynccontextmanager
async def uvicorn_server(tls: Certificates) -> AsyncIterator[int]:
    async def application(scope, receive, send) -> None:
        size = int(scope["path"][1:])
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body(size)})

    port = free_port()
    config = uvicorn.Config(
        application,
        port=port,
        lifespan="off",
        log_level="warning",
        ssl_certfile=tls.chain,
        ssl_keyfile=tls.key,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield port
    server.should_exit = True
    await serving


@contextlib.asynccontextmanager
async def streams_server(tls: Certificates) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                size = int(request.split()[1][1:])
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                writer.write(body(size))
                if b"Connection: close" in request:
                    break
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls.server())
    yield server.sockets[0].getsockname()[1]
    server.close()


class Client:
    """Requests one body after another over a raw socket, and occasionally pauses reading."""

    def __init__(self, port: int, context: ssl.SSLContext, keep_alive: bool) -> None:
        self.port, self.context, self.keep_alive = port, context, keep_alive
        self.connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, size: int) -> None:
        """Get a body of this size and compare it."""
        if self.connection is None:
            self.connection = await asyncio.open_connection(
                "localhost", self.port, ssl=self.context
            )
        reader, writer = self.connection
        last = b"" if self.keep_alive else b"Connection: close\r\n"
        writer.write(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (size, last))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await asyncio.sleep(0.05)  # The server fills all buffers, and waits.
        digest, left = hashlib.sha256(), size
        while left:
            data = await reader.read(min(left, 200_000))
            assert data, f"{left} of {size} bytes are missing"
            digest.update(data)
            left -= len(data)
            if left % 7 == 0:
                await asyncio.sleep(0.001)
        assert digest.digest() == hashlib.sha256(body(size)).digest()
        if not self.keep_alive:
            assert await reader.read() == b""
            await self.close()

    async def give_up(self, size: int) -> None:
        """Request a body and abort the connection after receiving part of it."""
        context = self.context
        reader, writer = await asyncio.open_connection("localhost", self.port, ssl=context)
        writer.write(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % size)
        await reader.readexactly(100_000)
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def close(self) -> None:
        if self.connection is not None:
            _, writer = self.connection
            self.connection = None
            writer.close()
            await writer.wait_closed()


async def check(serve: Callable, tls: Certificates, sizes: list[int]) -> None:
    async with asyncio.timeout(150), serve(tls) as port:
        for keep_alive in (True, False):
            client = Client(port, tls.client(), keep_alive)
            for size in sizes:
                await client.get(size)
                await asyncio.sleep(0.05)
                await assert_sleeps()
                await client.get(1000)
                await client.give_up(size)
                await client.get(1000)
            await client.close()
        await asyncio.sleep(0.05)
        await assert_sleeps()


def main(loop: Loop) -> None:
    sizes = [*SIZES, LARGEST] if os.environ.get("LARGE_BODIES") else SIZES
    with certificates() as tls:
        for serve in (aiohttp_server, uvicorn_server, streams_server):
            loop.run(check(serve, tls, sizes))
