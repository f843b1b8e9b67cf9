"""TLS servers and clients on the running loop, and blocking peers that speak TLS."""

import asyncio

from .certificates import HOST, client_context, server_context
from .protocols import Recorder


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class Server:
    """A TLS server on the running loop; `protocols` collects its protocols."""

    def __init__(self, context=None, protocol=Echo, **options):
        self.context = context or server_context()
        self.options = options
        self.protocol = protocol
        self.protocols = []

    def make(self):
        self.protocols.append(self.protocol())
        return self.protocols[-1]

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            self.make, "127.0.0.1", 0, ssl=self.context, **self.options
        )
        self.address = self.server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *error):
        self.server.close()
        await self.server.wait_closed()

    async def connect(self, context=None, protocol=Recorder, **options):
        loop = asyncio.get_running_loop()
        options.setdefault("server_hostname", HOST)
        options.setdefault("ssl", context or client_context())
        return await loop.create_connection(protocol, *self.address, **options)


async def closed(*protocols):
    """Wait until all connections are lost; return the reasons."""
    return [await protocol.done for protocol in protocols]


async def nothing_left():
    """Run until pending connection events that cannot be awaited have happened."""
    for _ in range(20):
        await asyncio.sleep(0.005)


def tls_thread(context, function):
    """For peers.listening(): serves one TLS connection with blocking code."""

    def serve(connection):
        with context.wrap_socket(connection, server_side=True) as wrapped:
            function(wrapped)

    return serve
