"""Attributes of transports, servers and their sockets that libraries and their tests use."""

import asyncio
import collections
import os
import socket
import sys
from unittest import mock

import pytest

from ..support.protocols import Recorder


async def connected():
    ours, peer = socket.socketpair()
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(
        Recorder, sock=ours
    )
    return transport, protocol, peer


async def serving():
    return await asyncio.get_running_loop().create_server(Recorder, "127.0.0.1", 0)


async def end(server):
    server.close()
    await server.wait_closed()


def test_the_extra_socket(run):
    """A TransportSocket: it can be inspected, but operations that would disturb the transport are
    refused."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await serving()
        (listener,) = server.sockets
        address = listener.getsockname()
        transport, protocol = await loop.create_connection(Recorder, *address)
        datagrams, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=address
        )
        for one, kind in [
            (listener, socket.SOCK_STREAM),
            (transport.get_extra_info("socket"), socket.SOCK_STREAM),
            (datagrams.get_extra_info("socket"), socket.SOCK_DGRAM),
        ]:
            assert type(one) is asyncio.trsock.TransportSocket
            assert (one.family, one.type) == (socket.AF_INET, kind)
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == kind
            assert one.getsockname()[0] == "127.0.0.1"
            copy = one.dup()
            assert copy.fileno() not in (-1, one.fileno())
            copy.close()
            one.setblocking(False)
            with pytest.raises(ValueError, match="settimeout"):
                one.settimeout(1)
            for name in ("recv", "send", "accept", "connect", "close", "detach"):
                assert not hasattr(one, name)
        assert transport.get_extra_info("socket").getpeername() == address
        assert isinstance(server.sockets, tuple)
        transport.close()
        datagrams.close()
        await protocol.done
        await end(server)
        assert server.sockets == ()

    run(main())


def test_instances_of_asyncio_classes(run):
    async def main():
        transport, protocol, peer = await connected()
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.ReadTransport)
        assert isinstance(transport, asyncio.WriteTransport)
        assert not isinstance(transport, asyncio.DatagramTransport)
        datagrams, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        # asyncio's class has been one since 3.12.
        assert isinstance(datagrams, asyncio.DatagramTransport) or sys.version_info < (3, 12)
        datagrams.close()
        transport.close()
        await protocol.done
        peer.close()
        server = await serving()
        assert isinstance(server, asyncio.Server)
        assert isinstance(server, asyncio.AbstractServer)
        await end(server)

    run(main())


def test_methods_replaced_on_a_transport(run):
    """Streams call the current methods."""

    async def main():
        ours, peer = socket.socketpair()
        with peer:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            transport = writer.transport
            transport.write = mock.Mock()
            writer.write(b"data")
            transport.write.assert_called_once_with(b"data")
            del transport.write
            writer.write(b"real")
            assert peer.recv(100) == b"real"
            transport.writelines = mock.Mock()
            writer.writelines([b"a", b"b"])
            transport.writelines.assert_called_once_with([b"a", b"b"])
            transport.is_closing = mock.Mock(return_value=True)
            assert writer.is_closing()
            del transport.is_closing
            assert not writer.is_closing()
            transport.pause_reading = mock.Mock()
            peer.send(bytes(150_000))
            while not transport.pause_reading.called:
                await asyncio.sleep(0.001)
            transport.resume_reading = mock.Mock()
            await reader.read(1_000_000)
            transport.resume_reading.assert_called_once_with()
            transport.note = "any attribute"
            assert vars(transport)["note"] == "any attribute"
            transport.close = mock.Mock()
            writer.close()
            transport.close.assert_called_once_with()
            del transport.close
            writer.close()
            await writer.wait_closed()

    run(main())


def test_methods_replaced_on_a_pipe(run):
    async def main():
        read, write = os.pipe()
        loop = asyncio.get_running_loop()
        writer, written = await loop.connect_write_pipe(Recorder, os.fdopen(write, "wb", 0))
        writer.write = mock.Mock()
        writer.writelines([b"a", b"b"])
        writer.write.assert_called_once_with(b"ab")
        del writer.write
        writer.write(b"real")
        assert os.read(read, 10) == b"real"
        writer.close()
        await written.done
        os.close(read)

    run(main())


def test_attributes_of_servers_and_loops(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await serving()
        assert server._ssl_context is None
        assert server._loop is loop
        assert server.get_loop() is loop
        server.note = loop.note = "any attribute"
        assert server.note == loop.note == "any attribute"
        loop.call_later = mock.Mock(side_effect=ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            loop.call_later(1, print)
        del loop.call_later
        timer = loop.call_at(loop.time() + 5, print)
        assert timer._when == timer.when()
        timer.cancel()
        await end(server)

    run(main())


def test_private_attributes_of_transports(run):
    async def main():
        transport, protocol, peer = await connected()
        assert transport._protocol is protocol
        assert transport._loop is asyncio.get_running_loop()
        assert transport._sock.fileno() == transport._sock_fd
        assert transport._extra["socket"].fileno() == transport._sock_fd
        assert (transport._closing, transport._conn_lost, transport._paused) == (False, 0, False)
        kind = collections.deque if sys.version_info >= (3, 12) else bytearray
        assert type(transport._buffer) is kind
        assert not transport._buffer
        written = bytes(range(256)) * 40_000
        transport.write(written)
        size = transport.get_write_buffer_size()
        left = transport._buffer
        if sys.version_info >= (3, 12):
            left = b"".join(left)
        assert left == written[-size:]
        transport.abort()
        assert (transport._closing, transport._conn_lost) == (True, 1)
        await protocol.done
        await asyncio.sleep(0)
        assert transport._protocol is None
        assert transport._sock is None
        peer.close()

    run(main())


def test_private_attributes_of_datagram_transports(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.bind(path)
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, family=socket.AF_UNIX
            )
            assert transport._address is None
            assert transport._buffer == collections.deque()
            while not transport._buffer:
                transport.sendto(b"data", path)
            transport.sendto(b"more", path)
            assert transport._buffer == collections.deque([(b"data", path), (b"more", path)])
            assert transport._buffer_size == transport.get_write_buffer_size()
            transport.abort()
            await asyncio.sleep(0)

    run(main())
