"""websockets server and client: compression, broadcast, keepalive, close codes, TLS."""

import asyncio
import contextlib
import os

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect as blocking_connect

from ..certificates import Certificates, certificates
from ..expected import expected
from ..loops import Loop, running

PATHS = {"/echo", "/loop", "/refuse-text"}


async def handle(connection: ServerConnection) -> None:
    path = connection.request.path if connection.request else ""
    if path == "/loop":
        await connection.send(running())
        return
    with contextlib.suppress(ConnectionClosedError):  # by the server's restart
        async for message in connection:
            if path == "/refuse-text" and isinstance(message, str):
                await connection.close(1003, "bytes only")
                return
            await connection.send(message)


def check_path(connection: ServerConnection, request):
    return None if request.path in PATHS else connection.respond(404, "nothing here\n")


async def check_echo(url: str, **options) -> None:
    async def talk(number: int) -> None:
        async with connect(f"{url}/echo", max_size=None, **options) as client:
            for size in (0, 1, 125, 126, 65_535, 65_536, 1 << 20):
                message = os.urandom(size)
                await client.send(message)
                assert await client.recv() == message
            async with asyncio.timeout(5):
                await (await client.ping())
            for count in range(100):
                await client.send(f"{number} {count}")
            received = [await client.recv() for _ in range(100)]
            assert received == [f"{number} {count}" for count in range(100)]

    await asyncio.gather(*map(talk, range(10)))


async def check_ends(url: str, loop: Loop) -> None:
    async with connect(f"{url}/loop") as client:
        assert await client.recv() == loop.name
        with expected(ConnectionClosedOK) as closed:
            await client.recv()
        assert (client.close_code, closed.error.rcvd is None) == (1000, False)
    async with connect(f"{url}/refuse-text") as client:
        await client.send("text")
        with expected(ConnectionClosedError):
            await client.recv()
        assert (client.close_code, client.close_reason) == (1003, "bytes only")
    with expected(InvalidStatus) as refused:
        await connect(f"{url}/nowhere")
    assert refused.error.response.status_code == 404


async def check_broadcast(url: str, server) -> None:
    clients = [await connect(f"{url}/echo", ping_interval=0.05) for _ in range(50)]
    broadcast(server.connections, "to all")
    assert {await client.recv() for client in clients} == {"to all"}
    await asyncio.sleep(0.2)
    assert all(client.latency > 0 for client in clients), "no keepalive ping was answered"
    server.close(code=1012, reason="restart")
    for client in clients:
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (1012, "restart")
    await server.wait_closed()


def talk_blocking(url: str) -> str:
    with blocking_connect(f"{url}/echo") as client:
        client.send("from a thread")
        return str(client.recv())


async def check(loop: Loop, tls: Certificates) -> None:
    options = {"max_size": None, "process_request": check_path}
    async with serve(handle, "localhost", 0, ssl=tls.server(), **options) as server:
        url = f"wss://localhost:{server.sockets[0].getsockname()[1]}"
        await check_echo(url, ssl=tls.client())
    server = await serve(handle, "127.0.0.1", 0, **options)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await check_echo(url)
    await check_echo(url, compression=None)
    await check_ends(url, loop)
    assert await asyncio.to_thread(talk_blocking, url) == "from a thread"
    await check_broadcast(url, server)


def main(loop: Loop) -> None:
    with certificates() as tls:
        loop.run(check(loop, tls))
