"""Sockets whose class overrides methods that a transport uses: the overrides are called."""

import asyncio
import socket

from ..support.tls import client_context, server_context


class Counting(socket.socket):
    """Counts calls; received data is converted to upper case."""

    def __init__(self, *args):
        super().__init__(*args)
        self.calls = set()

    def recv(self, *args):
        self.calls.add("recv")
        return super().recv(*args).upper()

    def recv_into(self, buffer, *args):
        self.calls.add("recv_into")
        return super().recv_into(buffer, *args)

    def send(self, *args):
        self.calls.add("send")
        return super().send(*args)

    def recvfrom(self, *args):
        self.calls.add("recvfrom")
        data, address = super().recvfrom(*args)
        return data.upper(), address

    def sendto(self, *args):
        self.calls.add("sendto")
        return super().sendto(*args)


class Named(socket.socket):
    """Overrides nothing relevant."""

    name = "mine"


async def streams_over(sock, **options):
    async def serve(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, server.sockets[0].getsockname())
    return server


async def end(server, writer):
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def test_a_stream(run):
    async def main():
        sock = Counting()
        server = await streams_over(sock)
        reader, writer = await asyncio.open_connection(sock=sock)
        for piece in (b"hello", b"more"):
            writer.write(piece)
            assert await reader.readexactly(len(piece)) == piece.upper()
        assert writer.get_extra_info("socket").fileno() == sock.fileno()
        assert sock.calls == {"recv", "send"}
        # Reading and writing to the end, with pauses.
        large = bytes(1 << 20)
        writer.write(large)
        assert await reader.readexactly(len(large)) == large
        writer.write_eof()
        assert await reader.read() == b""
        await end(server, writer)
        assert sock.fileno() == -1

    run(main())


def test_tls(run):
    async def main():
        sock = Counting()
        server = await streams_over(sock, ssl=server_context())
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=client_context(), server_hostname="localhost"
        )
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        # TLS is read into a buffer.
        assert sock.calls == {"recv_into", "send"}
        await end(server, writer)

    run(main())


def test_datagrams(run):
    class Receiver(asyncio.DatagramProtocol):
        def __init__(self):
            self.received = asyncio.get_running_loop().create_future()
            self.lost = asyncio.get_running_loop().create_future()

        def datagram_received(self, data, address):
            self.received.set_result((data, address))

        def connection_lost(self, error):
            self.lost.set_result(error)

    async def main():
        loop = asyncio.get_running_loop()
        sock = Counting(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
        transport, protocol = await loop.create_datagram_endpoint(Receiver, sock=sock)
        transport.sendto(b"hello", address)
        assert await protocol.received == (b"HELLO", address)
        assert sock.calls == {"recvfrom", "sendto"}
        transport.close()
        assert await protocol.lost is None

    run(main())


def test_a_class_that_overrides_nothing_changes_nothing(run, flavour):
    async def main():
        sock = Named()
        server = await streams_over(sock)
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert type(writer.transport).__module__.startswith(flavour.name)
        await end(server, writer)

    run(main())
