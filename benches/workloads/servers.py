"""Servers that are used in production, under load."""

import asyncio
import contextlib
import hashlib
import itertools
import ssl
from functools import partial

from benches.workload import served
from benches.workloads.echo import CERTIFICATE, port_of

BODY = bytes(i % 251 for i in range(1024))
CONNECTIONS = 64


async def application(scope, receive, send):
    """The smallest ASGI application."""
    assert scope["type"] == "http"
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", str(len(BODY)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


@contextlib.asynccontextmanager
async def uvicorn(endpoint, http):
    from uvicorn import Config, Server

    config = Config(
        application,
        port=0,
        http=http,
        loop="none",
        lifespan="off",
        log_level="error",
        access_log=False,
    )
    server = Server(config)
    # uvicorn's own signal handling is for the command line.
    server.capture_signals = contextlib.nullcontext
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            serving.result()
            raise RuntimeError("uvicorn ended before it began to serve")
        await asyncio.sleep(0.01)
    yield f"tcp:127.0.0.1:{port_of(server.servers[0])}"
    server.should_exit = True
    await serving


@contextlib.asynccontextmanager
async def aiohttp(endpoint):
    from aiohttp import web

    async def handle(request):
        return web.Response(body=BODY)

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"tcp:127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@contextlib.asynccontextmanager
async def websockets(endpoint):
    from websockets.asyncio.server import serve

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, compression=None) as server:
        yield f"tcp:127.0.0.1:{port_of(server)}"


RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


async def answer_mixed(reader, writer):
    """Requests on one connection. Some need a job in the thread pool, a few a child process."""
    loop = asyncio.get_running_loop()
    try:
        for number in itertools.count(1):
            async with asyncio.timeout(30):
                await reader.readuntil(b"\r\n\r\n")
            if number % 8 == 0:
                await loop.run_in_executor(None, hashlib.sha256, BODY)
            if number % 256 == 0:
                process = await asyncio.create_subprocess_exec("/bin/true")
                await asyncio.wait_for(process.wait(), 30)
            async with asyncio.timeout(30):
                writer.write(RESPONSE)
                await writer.drain()
    except (EOFError, OSError):
        writer.close()


@contextlib.asynccontextmanager
async def mixed(endpoint):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    server = await asyncio.start_server(answer_mixed, "127.0.0.1", 0, ssl=context)
    yield f"tls:127.0.0.1:{port_of(server)}"
    server.close()


HTTP = ("http", "--size", str(len(BODY)), "--connections", str(CONNECTIONS))
TITLE = f"1 KiB response, {CONNECTIONS} connections"
served(
    "uvicorn-h11",
    "servers",
    f"uvicorn with h11, {TITLE}",
    partial(uvicorn, http="h11"),
    *HTTP,
    modules=("uvicorn", "h11"),
)
served(
    "uvicorn-httptools",
    "servers",
    f"uvicorn with httptools, {TITLE}",
    partial(uvicorn, http="httptools"),
    *HTTP,
    modules=("uvicorn", "httptools"),
)
served("aiohttp", "servers", f"aiohttp, {TITLE}", aiohttp, *HTTP, modules=("aiohttp",))
served(
    "websockets",
    "servers",
    f"websockets, 1 KiB echo, {CONNECTIONS} connections",
    websockets,
    "websocket",
    "--size",
    "1024",
    "--connections",
    str(CONNECTIONS),
    modules=("websockets",),
)
served(
    "mixed",
    "servers",
    f"HTTPS on streams, {TITLE}; time-outs, executor jobs, child processes",
    mixed,
    *HTTP,
)
