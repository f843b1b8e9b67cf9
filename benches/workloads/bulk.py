"""Bulk transfer in one direction, in operations of a MiB. Its protocol is in loadgen's bulk.rs."""

import asyncio
import contextlib
import functools

from benches.workload import served
from benches.workloads.echo import port_of

#: the load generator's pattern; its period divides the length, so blocks can be concatenated
BLOCK = bytes(i % 251 for i in range(251 * 256))
SIZE = 16 * 1024 * 1024


@functools.cache
def body():
    return (BLOCK * (SIZE // len(BLOCK) + 1))[:SIZE]


class Sink(asyncio.Protocol):
    """Counts what is uploaded and answers with the count."""

    def connection_made(self, transport):
        self.transport = transport
        self.head = b""
        self.received = 0

    def data_received(self, data):
        if len(self.head) < 8:
            missing = 8 - len(self.head)
            self.head += data[:missing]
            self.received += max(0, len(data) - missing)
        else:
            self.received += len(data)
        if len(self.head) == 8 and self.received >= int.from_bytes(self.head, "little"):
            self.transport.write(self.received.to_bytes(8, "little"))
            self.head = b""
            self.received = 0


class Source(asyncio.Protocol):
    """Writes all requested bytes in one call."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        count = int.from_bytes(data, "little")
        assert count == SIZE
        self.transport.write(body())


async def stream_source(reader, writer):
    """Writes block by block and waits for each to drain."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            left = int.from_bytes(await reader.readexactly(8), "little")
            while left:
                writer.write(BLOCK[:left])
                await writer.drain()
                left -= min(left, len(BLOCK))
    writer.close()


@contextlib.asynccontextmanager
async def sink(endpoint):
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    yield f"tcp:127.0.0.1:{port_of(server)}"
    server.close()


@contextlib.asynccontextmanager
async def source(endpoint):
    server = await asyncio.get_running_loop().create_server(Source, "127.0.0.1", 0)
    yield f"tcp:127.0.0.1:{port_of(server)}"
    server.close()


@contextlib.asynccontextmanager
async def streams_source(endpoint):
    server = await asyncio.start_server(stream_source, "127.0.0.1", 0)
    yield f"tcp:127.0.0.1:{port_of(server)}"
    server.close()


LOAD = ("--size", str(SIZE), "--connections", "2")
served("tcp-upload", "tcp", "receive 16 MiB (per MiB)", sink, "upload", *LOAD)
served(
    "tcp-upload-young",
    "tcp",
    "receive 16 MiB (per MiB), young process",
    sink,
    "upload",
    *LOAD,
    young=True,
)
served("tcp-download", "tcp", "send 16 MiB in one write (per MiB)", source, "download", *LOAD)
served(
    "tcp-download-streams",
    "tcp",
    "send 16 MiB by 64 KiB and drain (per MiB)",
    streams_source,
    "download",
    *LOAD,
)
