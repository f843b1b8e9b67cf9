"""What goes wrong on networks and in programs: nothing lost, nothing twice, nothing leaked."""

import asyncio
import contextlib
import gc
import os
import resource
import socket
import struct
import threading

import pytest

from ..support.protocols import Recorder

RESET = struct.pack("ii", 1, 0)


class Actor(asyncio.Protocol):
    """Closes or aborts its transport inside one callback."""

    def __init__(self, where, how):
        self.where, self.how = where, how
        self.calls = []
        self.lost = asyncio.get_running_loop().create_future()

    def act(self, where):
        self.calls.append(where)
        if where == self.where:
            getattr(self.transport, self.how)()

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=1000)
        self.act("connection_made")

    def data_received(self, data):
        self.act("data_received")

    def eof_received(self):
        self.act("eof_received")
        return True

    def pause_writing(self):
        self.act("pause_writing")

    def resume_writing(self):
        self.act("resume_writing")

    def connection_lost(self, error):
        self.act("connection_lost")
        self.lost.set_result(error)


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize(
    "where",
    [
        "connection_made",
        "data_received",
        "eof_received",
        "pause_writing",
        "resume_writing",
        "connection_lost",
    ],
)
@pytest.mark.only("ferroloop")  # asyncio calls connection_lost() twice after resume_writing()
def test_ending_it_inside_a_callback(run, where, how):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        with peer:
            peer.setblocking(False)
            transport, actor = await loop.create_unix_connection(
                lambda: Actor(where, how), sock=ours
            )
            with contextlib.suppress(BrokenPipeError):
                peer.send(b"data")
            await asyncio.sleep(0.01)
            written = bytes(5_000_000)
            transport.write(written)
            got = 0
            for _ in range(3000):
                try:
                    got += len(peer.recv(1 << 20))
                except BlockingIOError:
                    await asyncio.sleep(0)
                if got == len(written):
                    break
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.01)
            transport.close()
            async with asyncio.timeout(5):
                assert await actor.lost is None
            assert actor.calls.count("connection_lost") == 1
            assert actor.calls[-1] == "connection_lost"
            if where in ("eof_received", "connection_lost"):
                assert got == len(written)
            transport.close()
            transport.abort()
            await asyncio.sleep(0)
            assert actor.calls.count("connection_lost") == 1

    run(main())


@pytest.mark.parametrize("taken", [0, 1, 999, 65_536, 300_000])
def test_reset_at_any_byte(run, taken):
    """The peer takes some bytes, then resets."""

    async def main():
        loop = asyncio.get_running_loop()
        connected = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def peer():
                connection, _ = listener.accept()
                with connection:
                    connected.wait()
                    left = taken
                    while left:
                        left -= len(connection.recv(left))
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

            thread = threading.Thread(target=peer)
            thread.start()
            transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
            connected.set()
            transport.write(bytes(20_000_000))
            async with asyncio.timeout(10):
                error = await protocol.done
            assert isinstance(error, ConnectionError)
            assert protocol.calls.count("lost") == 1
            assert transport.is_closing()
            assert transport.get_write_buffer_size() == 0
            await asyncio.to_thread(thread.join)

    run(main())


@pytest.mark.only("ferroloop")  # asyncio adds up its buffer at every write
def test_very_many_tiny_writes(run):
    count = 200_000

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        with peer:
            transport, protocol = await loop.create_unix_connection(Recorder, sock=ours)
            received = bytearray()

            def read():
                while data := peer.recv(1 << 20):
                    received.extend(data)

            for number in range(count):
                transport.write(b"%c" % (number % 256))
            transport.close()
            await asyncio.to_thread(read)
            assert await protocol.done is None
        assert received == bytes(number % 256 for number in range(count))

    run(main())


def test_writes_of_one_callback_stay_in_order(run):
    """Pieces of all sizes, bytes and not, gathered and not."""
    sizes = [1, 50, 2000, 3, 70_000, 5, 20_000, 2048, 2049, 1, 300_000, 7]

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        with peer:
            transport, protocol = await loop.create_unix_connection(Recorder, sock=ours)
            received, expected = bytearray(), bytearray()

            def read():
                while data := peer.recv(1 << 20):
                    received.extend(data)

            reading = asyncio.create_task(asyncio.to_thread(read))
            for turn in range(30):
                for index, size in enumerate(sizes):
                    data = bytes([turn]) * size
                    kind = (bytes, bytearray, memoryview)[(index + turn) % 3]
                    if index % 5 == 4:
                        transport.writelines([data, data])
                        expected += data
                    else:
                        transport.write(kind(data))
                    expected += data
                    if turn % 4 == 3 and index == 6:
                        transport.get_write_buffer_size()
                await asyncio.sleep(0)
            transport.close()
            await reading
            assert await protocol.done is None
        assert received == expected

    run(main())


def test_changing_a_buffer_after_writing_it(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        with peer:
            transport, protocol = await loop.create_unix_connection(Recorder, sock=ours)
            first, second = bytearray(b"a" * 1000), bytearray(b"b" * 1000)
            for _ in range(2):
                transport.write(first)
                transport.write(second)
                first[:], second[:] = b"X" * 1000, b"Y" * 1000
                assert transport.get_write_buffer_size() == 0
                first[:], second[:] = b"a" * 1000, b"b" * 1000
                await asyncio.sleep(0)
            transport.close()
            await protocol.done
            received = bytearray()
            while data := peer.recv(10_000):
                received += data
        return bytes(received)

    # asyncio keeps references to what it could not send, but here it can send all at once; what
    # we hold back until the callback returns must be a copy.
    assert run(main()) == (b"a" * 1000 + b"b" * 1000) * 2


def test_no_descriptors_left(run, log):
    """Accepting rests for a second, reports, and goes on."""

    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        accepted = []

        def make():
            accepted.append(Recorder())
            return accepted[-1]

        server = await loop.create_server(make, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = [socket.socket() for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
            fillers = []
            while True:
                try:
                    fillers.append(os.dup(0))
                except OSError:
                    break
            for client in clients:
                client.setblocking(False)
                client.connect_ex(address)
            while not reported:
                await asyncio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                os.close(filler)
        context = reported[0]
        assert context["message"] == "socket.accept() out of system resource"
        assert isinstance(context["exception"], OSError)
        assert context["socket"].fileno() == server.sockets[0].fileno()
        assert not accepted
        async with asyncio.timeout(5):
            while len(accepted) < 3:
                await asyncio.sleep(0.05)
        for client in clients:
            client.close()
        for protocol in accepted:
            await protocol.done
        server.close()
        await server.wait_closed()
        reported.clear()

    run(main())


def test_many_idle_connections(run):
    count = 400

    async def main():
        loop = asyncio.get_running_loop()
        protocols = []

        def make():
            protocols.append(Recorder())
            return protocols[-1]

        server = await loop.create_server(make, "127.0.0.1", 0, backlog=count)
        address = server.sockets[0].getsockname()
        pairs = [await loop.create_connection(Recorder, *address) for _ in range(count)]
        while len(protocols) < count or not all(p.transport for p in protocols):
            await asyncio.sleep(0)
        for number, (transport, _) in enumerate(pairs):
            transport.write(b"%d" % number)
        for protocol in protocols:
            await protocol.until(lambda p=protocol: p.received)
        assert sorted(int(p.received) for p in protocols) == list(range(count))
        for transport, _ in pairs:
            transport.close()
        for protocol in protocols:
            assert await protocol.done is None
        server.close()
        await server.wait_closed()

    run(main())


def test_the_collector_runs_while_a_transport_is_made(run):
    """It looks at the half-made object too, on the Python versions where it can."""

    async def main():
        loop = asyncio.get_running_loop()
        threshold = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for _ in range(100):
                ours, peer = socket.socketpair()
                stream, _ = await loop.create_unix_connection(asyncio.Protocol, sock=ours)
                reader, _ = await loop.connect_read_pipe(asyncio.Protocol, peer)
                datagrams, _ = await loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
                )
                for transport in (stream, reader, datagrams):
                    transport.close()
                await asyncio.sleep(0)
                assert peer.fileno() == -1
        finally:
            gc.set_threshold(*threshold)

    run(main())
