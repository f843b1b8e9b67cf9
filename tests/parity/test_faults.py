"""Failures of networks and programs: nothing is lost, duplicated or leaked."""

import asyncio
import contextlib
import gc
import os
import resource
import socket
import struct
import threading
import time

import pytest

from ..support.protocols import Recorder

RESET = struct.pack("ii", 1, 0)
ALL_BYTES = [bytes([number]) for number in range(256)]


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
def test_ending_a_transport_inside_a_callback(run, where, how):
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
    """The peer reads some bytes, then resets the connection."""

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


@pytest.mark.mode("plain")
@pytest.mark.only("ferroloop")  # asyncio sums up its buffer at every write
def test_a_million_tiny_writes(run):
    count = 1_000_000

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
                transport.write(ALL_BYTES[number % 256])
            transport.close()
            await asyncio.to_thread(read)
            assert await protocol.done is None
        assert received == (bytes(range(256)) * (count // 256 + 1))[:count]

    run(main())


def test_writes_of_one_callback_stay_in_order(run):
    """Pieces of all sizes, bytes and other types, written one by one and with writelines()."""
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

    # asyncio keeps references to unsent data, but here it can send everything immediately; what we
    # hold back until the callback returns must be a copy.
    assert run(main()) == (b"a" * 1000 + b"b" * 1000) * 2


def test_running_out_of_descriptors(run, log):
    """Accepting pauses for a second, is reported, and resumes."""

    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        accepted = []

        def make():
            accepted.append(Recorder())
            return accepted[-1]

        server = await loop.create_server(make, "127.0.0.1", 0, backlog=5)
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
            # It is paused: the loop does not spin on the pending connections.
            count, used = len(reported), time.process_time()
            await asyncio.sleep(0.4)
            assert time.process_time() - used < 0.2
            assert len(reported) == count
            # Each attempt is reported: the size of the backlog, plus one in newer versions.
            assert count in (5, 6)
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


def test_the_collector_runs_while_a_transport_is_made(run):
    """On the Python versions where it can, it also visits the half-initialised object."""

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


class BufferedActor(Actor, asyncio.BufferedProtocol):
    """The same, with its own buffer."""

    def get_buffer(self, sizehint):
        self.act("get_buffer")
        return bytearray(1000)

    def buffer_updated(self, length):
        self.act("buffer_updated")


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize(
    "where", ["connection_made", "get_buffer", "buffer_updated", "eof_received"]
)
def test_ending_a_buffered_transport_inside_a_callback(run, where, how):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        with peer:
            transport, actor = await loop.create_unix_connection(
                lambda: BufferedActor(where, how), sock=ours
            )
            with contextlib.suppress(BrokenPipeError):
                peer.send(b"data")
            await asyncio.sleep(0.01)
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.01)
            transport.close()
            async with asyncio.timeout(5):
                assert await actor.lost is None
            await asyncio.sleep(0)
            assert actor.calls.count("connection_lost") == 1
            assert actor.calls[-1] == "connection_lost"

    run(main())


class DatagramActor(Actor, asyncio.DatagramProtocol):
    """The same for datagrams."""

    def datagram_received(self, data, address):
        self.act("datagram_received")

    def error_received(self, error):
        self.act("error_received")


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize(
    "where", ["connection_made", "datagram_received", "error_received", "connection_lost"]
)
def test_ending_a_datagram_transport_inside_a_callback(run, where, how):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            transport, actor = await loop.create_datagram_endpoint(
                lambda: DatagramActor(where, how), remote_addr=peer.getsockname()
            )
            if not transport.is_closing():
                for _ in range(3):
                    peer.sendto(b"data", transport.get_extra_info("sockname"))
            await asyncio.sleep(0.01)
        # The peer is closed: the error is reported for the second datagram.
        for _ in range(3):
            transport.sendto(b"data")
            await asyncio.sleep(0.005)
        transport.close()
        async with asyncio.timeout(5):
            assert await actor.lost is None
        await asyncio.sleep(0)
        assert actor.calls.count("connection_lost") == 1
        assert actor.calls[-1] == "connection_lost"
        if where != "connection_lost":
            assert actor.calls.count(where) == 1

    run(main())


TCP_REPAIR = 19


def test_a_peer_that_disappears(run):
    """It disappears silently, like a machine that lost power: only writing reveals it."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
            peer, _ = listener.accept()
            peer.send(b"last words")
            await protocol.until(lambda: protocol.received == b"last words")
            try:
                peer.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            except OSError:
                transport.abort()
                peer.close()
                await protocol.done
                pytest.skip("only root can make a connection vanish")
            peer.close()
            await asyncio.sleep(0.05)
            assert protocol.calls == ["made", "data"]
            assert not transport.is_closing()
            transport.write(b"still there?")
            async with asyncio.timeout(10):
                assert isinstance(await protocol.done, ConnectionResetError)
            assert protocol.calls == ["made", "data", "lost"]

    run(main())
