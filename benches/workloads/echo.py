"""Echo servers in four styles, over TCP, UNIX sockets, UDP and TLS."""

import asyncio
import contextlib
import resource
import socket
import ssl
from functools import partial
from pathlib import Path

from benches.workload import served

CERTIFICATE = Path(__file__).resolve().parent.parent / "certificate.pem"
#: read size of a server: the largest message fits
READ = 128 * 1024


class Echo(asyncio.Protocol):
    """Sends received data back."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = memoryview(bytearray(READ))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, length):
        # A copy, because the buffer may be reused before all of it has been sent.
        self.transport.write(bytes(self.buffer[:length]))


class DatagramEcho(asyncio.DatagramProtocol):
    """Sends each datagram back where it came from."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


async def echo_stream(reader, writer):
    """The style of most programs."""
    while data := await reader.read(READ):
        writer.write(data)
        await writer.drain()
    writer.close()


async def start(style, context=None, path=None):
    """A server in `style`: on `path` if given, else on a free TCP port."""
    loop = asyncio.get_running_loop()
    if style == "streams":
        if path:
            return await asyncio.start_unix_server(echo_stream, path, ssl=context)
        return await asyncio.start_server(echo_stream, "127.0.0.1", 0, ssl=context)
    factory = {"protocol": Echo, "buffered": BufferedEcho}[style]
    if path:
        return await loop.create_unix_server(factory, path, ssl=context)
    return await loop.create_server(factory, "127.0.0.1", 0, ssl=context)


def port_of(server):
    """The port that the server listens on."""
    return server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def tcp(endpoint, style):
    server = await start(style)
    yield f"tcp:127.0.0.1:{port_of(server)}"
    server.close()


@contextlib.asynccontextmanager
async def unix(endpoint, style):
    path = f"{endpoint}/socket"
    server = await start(style, path=path)
    yield f"unix:{path}"
    server.close()


@contextlib.asynccontextmanager
async def tls(endpoint, style):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    server = await start(style, context)
    yield f"tls:127.0.0.1:{port_of(server)}"
    server.close()


@contextlib.asynccontextmanager
async def udp(endpoint):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(DatagramEcho, local_addr=("127.0.0.1", 0))
    yield f"udp:127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    transport.close()


@contextlib.asynccontextmanager
async def bare_sockets(endpoint):
    loop = asyncio.get_running_loop()
    clients = set()

    async def echo(client):
        with client:
            while data := await loop.sock_recv(client, READ):
                await loop.sock_sendall(client, data)

    async def accept():
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(echo(client))
            clients.add(task)
            task.add_done_callback(clients.discard)

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        accepting = loop.create_task(accept())
        yield f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        accepting.cancel()
        for task in [*clients]:
            task.cancel()
        await asyncio.gather(accepting, *clients, return_exceptions=True)


SIZES = {"1k": 1024, "10k": 10 * 1024, "100k": 100 * 1024}
TCP_STYLES = {
    "protocol": partial(tcp, style="protocol"),
    "buffered": partial(tcp, style="buffered"),
    "streams": partial(tcp, style="streams"),
    "sock": bare_sockets,
}


def echo_load(size, connections):
    """Arguments of the load generator."""
    return ("echo", "--size", str(size), "--connections", str(connections))


for style, serve in TCP_STYLES.items():
    for label, size in SIZES.items():
        for connections in (1, 10, 100):
            served(
                f"tcp-{style}-{label}-{connections}",
                "tcp",
                f"TCP {style} echo, {label[:-1]} KiB, {connections} connections",
                serve,
                *echo_load(size, connections),
            )

for style in ("protocol", "streams"):
    served(
        f"tcp-{style}-100k-10-young",
        "tcp",
        f"TCP {style} echo, 100 KiB, 10 connections, young process",
        TCP_STYLES[style],
        *echo_load(SIZES["100k"], 10),
        young=True,
    )
    for label, size in SIZES.items():
        served(
            f"unix-{style}-{label}-10",
            "unix",
            f"UNIX {style} echo, {label[:-1]} KiB, 10 connections",
            partial(unix, style=style),
            *echo_load(size, 10),
        )
        served(
            f"tls-{style}-{label}-10",
            "tls",
            f"TLS {style} echo, {label[:-1]} KiB, 10 connections",
            partial(tls, style=style),
            *echo_load(size, 10),
        )

for label in ("1k", "100k"):
    served(
        f"tls-protocol-{label}-10-young",
        "tls",
        f"TLS protocol echo, {label[:-1]} KiB, 10 connections, young process",
        partial(tls, style="protocol"),
        *echo_load(SIZES[label], 10),
        young=True,
    )
served(
    "tls-handshake",
    "tls",
    "TLS handshake and one message, 10 connections at a time",
    partial(tls, style="protocol"),
    "connect",
    "--size",
    "64",
    "--connections",
    "10",
)
served(
    "tcp-connect",
    "tcp",
    "accept, one message, close; 10 connections at a time",
    TCP_STYLES["protocol"],
    "connect",
    "--size",
    "64",
    "--connections",
    "10",
)
for connections in (1, 10):
    served(
        f"udp-1k-{connections}",
        "udp",
        f"UDP echo, 1 KiB, {connections} clients",
        udp,
        *echo_load(1024, connections),
    )
for name, title, serve in (
    ("protocol", "TCP connection (protocol)", TCP_STYLES["protocol"]),
    ("streams", "TCP connection (streams)", TCP_STYLES["streams"]),
    ("tls", "TLS connection (protocol)", partial(tls, style="protocol")),
):
    served(
        f"memory-idle-{name}",
        "memory",
        f"idle {title}",
        serve,
        "idle",
        "--size",
        "1024",
        "--connections",
        "1000",
        unit="bytes",
    )


def raise_file_limit():
    """Allow as many descriptors as the system does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


for connections in (1_000, 10_000):
    served(
        f"tcp-protocol-1k-idle-{connections}",
        "tcp",
        f"TCP protocol echo, 1 KiB, {connections:,} connections, 1 % of which are active",
        TCP_STYLES["protocol"],
        *echo_load(1024, connections),
        "--active",
        str(connections // 100),
        prepare=raise_file_limit,
    )


@contextlib.asynccontextmanager
async def busily_polling(endpoint):
    loop = asyncio.get_running_loop()
    if hasattr(loop, "busy_poll"):
        loop.busy_poll = 50e-6
    async with tcp(endpoint, "protocol") as address:
        yield address


served(
    "tcp-protocol-1k-1-busy",
    "tcp",
    "TCP protocol echo, 1 KiB, 1 connection, polling for 50 µs before a sleep where it can",
    busily_polling,
    *echo_load(1024, 1),
)
