"""Heavy load: large writes, many connections, readers that stop for a long time."""

import asyncio
import contextlib
import hashlib
import os
import resource
import socket
import time

import pytest

from ..support.protocols import Recorder

LARGE = 64 * 1024 * 1024


async def pair_of_sockets():
    ours, peer = socket.socketpair()
    peer.settimeout(20)
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(
        Recorder, sock=ours
    )
    return transport, protocol, peer.recv, peer.close


async def tcp():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, protocol = await asyncio.get_running_loop().create_connection(
            Recorder, *listener.getsockname()
        )
        peer, _ = listener.accept()
        peer.settimeout(20)
    return transport, protocol, peer.recv, peer.close


async def pipe():
    read, write = os.pipe()
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(
        Recorder, os.fdopen(write, "wb", 0)
    )
    return transport, protocol, lambda size: os.read(read, size), lambda: os.close(read)


@pytest.mark.mode("plain")
@pytest.mark.parametrize("connected", [pair_of_sockets, tcp, pipe], ids=lambda c: c.__name__)
def test_a_very_large_write(run, connected):
    block = bytes(range(251)) * 1000
    data = (block * (LARGE // len(block) + 1))[:LARGE]

    async def main():
        transport, protocol, receive, close = await connected()

        def read():
            digest, length = hashlib.sha256(), 0
            while part := receive(1 << 20):
                digest.update(part)
                length += len(part)
            close()
            return length, digest.digest()

        transport.write(data)
        assert transport.get_write_buffer_size() > LARGE - 16 * 1024 * 1024
        transport.close()
        assert await asyncio.to_thread(read) == (LARGE, hashlib.sha256(data).digest())
        assert await protocol.done is None
        assert protocol.calls == ["made", "pause", "resume", "lost"]

    run(main())


@pytest.mark.parametrize("connected", [pair_of_sockets, tcp, pipe], ids=lambda c: c.__name__)
def test_a_reader_that_stops(run, connected):
    """While the buffer is full the loop is idle; afterwards everything arrives."""

    async def main():
        transport, protocol, receive, close = await connected()
        loop = asyncio.get_running_loop()
        piece = bytes(range(256)) * 256
        sent = 0
        while "pause" not in protocol.calls:
            transport.write(piece)
            sent += 1
        size = transport.get_write_buffer_size()
        assert size > transport.get_write_buffer_limits()[1]
        # Timers are on time, and nothing spins.
        used, began = time.process_time(), loop.time()
        for _ in range(3):
            await asyncio.sleep(0.1)
        assert loop.time() - began < 5
        assert time.process_time() - used < 0.15
        assert transport.get_write_buffer_size() == size
        assert protocol.calls == ["made", "pause"]

        def read():
            data = bytearray()
            while part := receive(1 << 20):
                data += part
            close()
            return data

        transport.close()
        assert await asyncio.to_thread(read) == piece * sent
        assert await protocol.done is None
        assert protocol.calls == ["made", "pause", "resume", "lost"]

    run(main())


@pytest.mark.mode("plain")
def test_many_idle_connections(run):
    """As many as the limit on descriptors allows, up to 10,000; each connection works."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000 if hard == resource.RLIM_INFINITY else min(10_000, (hard - 300) // 2)

    async def main():
        protocols = []
        loop = asyncio.get_running_loop()

        class Greeted(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
                protocols.append(self)
                self.lost = 0

            def data_received(self, data):
                self.transport.write(data)

            def connection_lost(self, error):
                self.lost += 1
                open_ones.discard(self)
                if not open_ones:
                    all_lost.set_result(None)

        all_lost = loop.create_future()
        server = await loop.create_server(Greeted, "127.0.0.1", 0, backlog=1024)
        address = server.sockets[0].getsockname()

        def connect(count):
            return [socket.create_connection(address, timeout=20) for _ in range(count)]

        clients = []
        try:
            while len(clients) < wanted:
                clients += await asyncio.to_thread(connect, min(500, wanted - len(clients)))
            while len(protocols) < wanted:
                await asyncio.sleep(0.01)
            open_ones = set(protocols)
            for number in range(0, wanted, 97):
                message = b"%d" % number
                clients[number].sendall(message)
                assert await asyncio.to_thread(clients[number].recv, 100) == message
        finally:
            for client in clients:
                client.close()
        async with asyncio.timeout(20):
            await all_lost
        assert {protocol.lost for protocol in protocols} == {1}
        server.close()
        await server.wait_closed()

    try:
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * wanted + 300), hard))
        run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
