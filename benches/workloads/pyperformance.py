"""pyperformance's `asyncio_tcp`, `asyncio_tcp_ssl` and `asyncio_websockets`, inside one loop.

Its `async_tree` benchmarks are in trees.py.
"""

import asyncio
import ssl

from benches.workload import timed
from benches.workloads.echo import CERTIFICATE, port_of

MIB = 1 << 20
CHUNK = 10 * MIB


async def download(n, server_context=None, client_context=None):
    """Transfer `n` MiB in chunks of 10 MiB, which a server's stream sends and a client's reads."""
    data = b"x" * CHUNK

    async def send(reader, writer):
        for _ in range(n * MIB // CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    received = 0
    async with await asyncio.start_server(send, "127.0.0.1", 0, ssl=server_context) as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port_of(server), ssl=client_context
        )
        while chunk := await reader.read(CHUNK):
            received += len(chunk)
        writer.close()
        await writer.wait_closed()
    return received // MIB


@timed("pyperformance-tcp", "tcp", "pyperformance's asyncio_tcp, per MiB", 100)
async def tcp(n):
    return await download(n)


@timed("pyperformance-tcp-ssl", "tls", "pyperformance's asyncio_tcp_ssl, per MiB", 50)
async def tcp_ssl(n):
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(CERTIFICATE)
    client_context = ssl.create_default_context()
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    return await download(n, server_context, client_context)


@timed(
    "pyperformance-websockets",
    "servers",
    "pyperformance's asyncio_websockets, per message of 1 MiB",
    50,
    modules=("websockets",),
)
async def websockets(n):
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve

    data = b"x" * MIB
    received = asyncio.get_running_loop().create_future()

    async def receive(connection):
        count = 0
        while count < n:
            count += len(await connection.recv()) == MIB
        received.set_result(count)

    async with (
        serve(receive, "127.0.0.1", 0) as server,
        connect(f"ws://127.0.0.1:{port_of(server)}") as connection,
    ):
        await asyncio.gather(*[connection.send(data) for _ in range(n)])
        return await received
