"""httpx: pools, streams, timeouts, cancellation, TLS; against a local server built on streams."""

import asyncio
import contextlib

import httpx

from ..certificates import Certificates, certificates
from ..expected import expected
from ..loops import Loop
from ..servers import free_port

CHUNK = b"abcdefgh" * 4096


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A small HTTP/1.1 server: echoes bodies, streams chunks, or never answers."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while not reader.at_eof():
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(maxsplit=2)
            if method == "POST":
                length = int(head.lower().split("content-length:")[1].split()[0])
                body = await reader.readexactly(length)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + body)
            elif path == "/chunks":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(64):
                    writer.write(b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
            elif path == "/never":
                await reader.read()  # until the client gives up
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def check(client: httpx.AsyncClient) -> None:
    bodies = [bytes([number]) * (1 << number) for number in range(20)]
    answers = await asyncio.gather(*(client.post("/echo", content=body) for body in bodies))
    assert [it.content for it in answers] == bodies

    async def chunks() -> bytes:
        async with client.stream("GET", "/chunks") as response:
            return b"".join([part async for part in response.aiter_bytes()])

    assert await asyncio.gather(*(chunks() for _ in range(5))) == [CHUNK * 64] * 5
    with expected(httpx.ReadTimeout):
        await client.get("/never", timeout=0.1)
    waiting = asyncio.create_task(client.get("/never"))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with expected(asyncio.CancelledError):
        await waiting
    # The pool is intact afterwards.
    assert (await client.post("/echo", content=b"end")).content == b"end"


async def check_refused() -> None:
    async with httpx.AsyncClient() as client:
        with expected(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{free_port()}")


async def serve_and_check(tls: Certificates) -> None:
    limits = httpx.Limits(max_connections=8, max_keepalive_connections=4)
    for scheme, context in (("http", None), ("https", tls.server())):
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            origin = f"{scheme}://localhost:{port}"
            options = {"verify": tls.client(), "limits": limits}
            async with httpx.AsyncClient(base_url=origin, **options) as client:
                await check(client)
    await check_refused()


def main(loop: Loop) -> None:
    with certificates() as tls:
        loop.run(serve_and_check(tls))
