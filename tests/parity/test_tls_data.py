"""Application data over TLS: order and completeness, flow control, buffered protocols."""

import asyncio
import contextlib
import os
import socket
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..support import peers
from ..support.certificates import HOST, client_context, server_context
from ..support.protocols import BufferedRecorder, Recorder
from ..support.tls import Echo, Server, closed, nothing_left, tls_thread

BIG = os.urandom(1 << 20) * 8
RECORD = 16 * 1024
SIZES = [1, 2, 1000, RECORD - 1, RECORD, RECORD + 1, 7 * RECORD, 100_000, 1_000_000]


class Views(BufferedRecorder):
    """Supplies memoryviews: asyncio's TLS would slice a bytearray and read into the copy."""

    def get_buffer(self, sizehint):
        return memoryview(super().get_buffer(sizehint))


class Client:
    """A TLS client without a loop; the caller splits what it sends."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname=HOST)

    async def handshake(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.object.do_handshake()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self.sock, self.outgoing.read())
                self.incoming.write(await loop.sock_recv(self.sock, 65536))
            else:
                return await loop.sock_sendall(self.sock, self.outgoing.read())

    def encrypt(self, data: bytes) -> bytes:
        """The TLS records for some data."""
        view = memoryview(data)
        while view:
            view = view[self.object.write(view) :]
        return self.outgoing.read()


@pytest.mark.parametrize("size", SIZES)
def test_sizes(run, size):
    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            data = BIG[:size]
            for given_ in (data, bytearray(data), memoryview(data)):
                client.received.clear()
                transport.write(given_)
                await client.until(lambda: len(client.received) == size)
                assert client.received == data
            transport.close()
            await closed(client, server.protocols[0])

    run(main())


def test_the_types_received(run):
    types = set()

    class Typed(Echo):
        def data_received(self, data):
            types.add(type(data))
            super().data_received(data)

    async def main():
        async with Server(protocol=Typed) as server:
            transport, client = await server.connect(protocol=Typed)
            transport.write(b"x")
            await client.until(lambda: client.received)
            client.transport.abort()
            await closed(client, server.protocols[0])

    run(main())
    assert types == {bytes}


def test_records_received_together_are_delivered_together(run):
    """All records of a turn are delivered in one call."""
    deliveries = []

    class Noting(Recorder):
        def data_received(self, data):
            deliveries.append(data)
            super().data_received(data)

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with theirs:
            client = Client(theirs, client_context())
            (_, server), _ = await asyncio.gather(
                loop.connect_accepted_socket(Noting, ours, ssl=server_context()),
                client.handshake(),
            )
            await nothing_left()
            theirs.send(b"".join(client.encrypt(b"%d" % i) for i in range(10)))
            await server.until(lambda: server.received)
            server.transport.abort()
            await server.done

    run(main())
    assert deliveries == [b"0123456789"]


def test_many_small_writes(run):
    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            pieces = [b"%d," % i for i in range(5000)]
            for piece in pieces:
                transport.write(piece)
            transport.writelines(pieces)
            expected = b"".join(pieces) * 2
            await client.until(lambda: len(client.received) >= len(expected))
            assert client.received == expected
            transport.close()
            await closed(client, server.protocols[0])

    run(main())


def test_writelines(run):
    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            transport.writelines([])
            transport.writelines([b"", b"a", b"", bytearray(b"b" * 20_000), memoryview(b"c")])
            transport.writelines(piece for piece in (BIG[:100_000], b"d"))
            expected = b"a" + b"b" * 20_000 + b"c" + BIG[:100_000] + b"d"
            await client.until(lambda: len(client.received) >= len(expected))
            assert client.received == expected
            transport.close()
            await closed(client, server.protocols[0])

    run(main())


def test_writing_before_the_handshake_is_done(run):
    class Early(Recorder):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        async with Server() as server:
            made = loop.create_future()

            def make():
                made.set_result(None)
                return Early()

            connecting = asyncio.ensure_future(
                loop.create_connection(
                    make, *server.address, ssl=client_context(), server_hostname=HOST
                )
            )
            await made
            transport, client = await connecting
            transport.write(b"first")
            await client.until(lambda: client.received == b"first")
            transport.close()
            await closed(client, server.protocols[0])

    run(main())


# --- flow control -----------------------------------------------------------------


def test_limits(run):
    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
            assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
            transport.set_write_buffer_limits(high=1000)
            assert transport.get_write_buffer_limits() == (250, 1000)
            transport.set_write_buffer_limits(low=100)
            assert transport.get_write_buffer_limits() == (100, 400)
            transport.set_read_buffer_limits(high=4000, low=1000)
            assert transport.get_read_buffer_limits() == (1000, 4000)
            for change in (transport.set_write_buffer_limits, transport.set_read_buffer_limits):
                with pytest.raises(
                    ValueError, match=r"^high \(1\) must be >= low \(2\) must be >= 0$"
                ):
                    change(high=1, low=2)
            assert transport.get_write_buffer_size() == 0
            assert transport.get_read_buffer_size() == 0
            transport.close()
            await closed(client, server.protocols[0])

    run(main())


def test_a_slow_reader_pauses_the_writer(run):
    async def main():
        async with Server(protocol=Recorder) as server:
            transport, client = await server.connect()
            await nothing_left()
            accepted = server.protocols[0]
            accepted.transport.pause_reading()
            assert not accepted.transport.is_reading()
            written = bytearray()
            while "pause" not in client.calls:
                piece = BIG[len(written) % len(BIG) :][:50_000]
                transport.write(piece)
                written += piece
                await asyncio.sleep(0)
            assert transport._protocol_paused
            assert transport.get_write_buffer_size() >= 512 * 1024
            await nothing_left()
            assert not accepted.received
            # A paused transport buffers a bounded amount.
            assert accepted.transport.get_read_buffer_size() < 1024 * 1024
            accepted.transport.resume_reading()
            assert accepted.transport.is_reading()
            await accepted.until(lambda: len(accepted.received) == len(written))
            await client.until(lambda: "resume" in client.calls)
            assert transport.get_write_buffer_size() <= 128 * 1024
            assert accepted.received == written
            transport.close()
            await closed(client, accepted)

    run(main())


def test_writing_to_a_peer_that_reads_later(run):
    context = server_context()
    received = []

    def serve(wrapped):
        wrapped.recv(1)
        received.append(b"x" + peers.receive_all(wrapped))

    with peers.listening(tls_thread(context, serve)) as address:

        async def main():
            loop = asyncio.get_running_loop()
            transport, client = await loop.create_connection(
                Recorder, *address, ssl=client_context(), server_hostname=HOST
            )
            transport.write(b"x" + BIG)
            transport.close()
            assert await client.done is None

        run(main())
    assert received == [b"x" + BIG]


def test_pausing_in_data_received(run):
    class PausingEachTime(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    async def main():
        async with Server(protocol=PausingEachTime) as server:
            transport, client = await server.connect()
            transport.write(BIG)
            transport.close()
            await closed(client, server.protocols[0])
            assert server.protocols[0].received == BIG

    run(main())


def test_the_end_waits_for_a_paused_reader(run):
    context = server_context()

    def serve(connection):
        wrapped = context.wrap_socket(connection, server_side=True)
        wrapped.recv(1)
        wrapped.sendall(b"last words")
        socket.socket(fileno=wrapped.detach()).close()

    with peers.listening(serve) as address:

        async def main():
            loop = asyncio.get_running_loop()
            transport, client = await loop.create_connection(
                Recorder, *address, ssl=client_context(), server_hostname=HOST
            )
            transport.pause_reading()
            transport.write(b"x")
            await nothing_left()
            assert client.calls == ["made"]
            transport.resume_reading()
            assert await client.done is None
            assert client.received == b"last words"
            assert client.calls == ["made", "data", "eof", "lost"]

        run(main())


# --- buffered protocols -----------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1024, RECORD, 100_000])
def test_buffered_protocol(run, size):
    data = BIG[: min(200_000, 2000 * size)]

    async def main():
        async with Server() as server:
            transport, client = await server.connect(protocol=lambda: Views(size))
            transport.write(data)
            await client.until(lambda: len(client.received) == len(data))
            assert client.received == data
            assert max(client.updates) <= size
            transport.close()
            await closed(client, server.protocols[0])
            assert client.eof.done()

    run(main())


def test_changing_to_a_buffered_protocol(run):
    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            transport.write(b"one")
            await client.until(lambda: client.received == b"one")
            other = BufferedRecorder()
            transport.set_protocol(other)
            assert transport.get_protocol() is other
            transport.write(b"two")
            await other.until(lambda: other.received == b"two")
            transport.close()
            await closed(other, server.protocols[0])

    run(main())


# --- sendfile ---------------------------------------------------------------------


def test_sendfile(run, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BIG)

    async def main():
        loop = asyncio.get_running_loop()
        async with Server(protocol=Recorder) as server:
            transport, client = await server.connect()
            with path.open("rb") as file:
                assert await loop.sendfile(transport, file, 10, 1_000_000) == 1_000_000
                with pytest.raises(RuntimeError, match="fallback is disabled"):
                    await loop.sendfile(transport, file, fallback=False)
            assert transport.get_protocol() is client
            transport.write(b"end")
            transport.close()
            await closed(client, server.protocols[0])
            assert server.protocols[0].received == BIG[10:1_000_010] + b"end"

    run(main())


# --- splitting --------------------------------------------------------------------


@st.composite
def streams(draw):
    """Messages, where their records are split when sent, and where the stream ends."""
    sizes = draw(st.lists(st.integers(1, 40_000) | st.integers(1, 40), min_size=1, max_size=8))
    cuts = draw(st.lists(st.integers(1, 5000) | st.integers(1, 6), min_size=1, max_size=20))
    end = draw(st.none() | st.floats(0, 1))
    return sizes, cuts, end


@pytest.mark.mode("plain")
@pytest.mark.parametrize("buffered", [False, True], ids=["protocol", "buffered"])
@pytest.mark.parametrize("version", list(ssl.TLSVersion)[-3:-1], ids=str)
def test_complete_records_are_never_lost(flavour, run, buffered, version):
    """Wherever the stream is split or ends, complete records are delivered."""
    contexts = server_context(), client_context(version=version)

    async def attempt(sizes, cuts, end):
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        protocol = (lambda: Views(1000)) if buffered else Recorder
        with theirs:
            client = Client(theirs, contexts[1])
            (transport, server), _ = await asyncio.gather(
                loop.connect_accepted_socket(protocol, ours, ssl=contexts[0]),
                client.handshake(),
            )
            stream, whole = b"", []
            for number, size in enumerate(sizes):
                message = bytes([number]) * size
                stream += client.encrypt(message)
                whole.append((len(stream), message))
            length = len(stream) if end is None else int(end * len(stream))
            position = 0
            for step in range(length):
                if position >= length:
                    break
                cut = cuts[step % len(cuts)] if step < 200 else length
                piece = stream[position : min(position + cut, length)]
                await loop.sock_sendall(theirs, piece)
                position += len(piece)
                await asyncio.sleep(0)
            expected = b"".join(message for limit, message in whole if limit <= length)
            if end is None:
                await server.until(lambda: len(server.received) == len(expected))
                transport.abort()
            else:
                theirs.shutdown(socket.SHUT_WR)
            await server.done
            return bytes(server.received), expected

    @settings(max_examples=25, deadline=None, database=None)
    @given(streams())
    def check(drawn):
        sizes, cuts, end = drawn
        if flavour.is_asyncio and buffered:
            end = None  # when the stream ends asyncio loses what does not fit into the buffer
        received, expected = run(attempt(sizes, cuts, end))
        # Complete records of the truncated message may have arrived as well.
        assert received[: len(expected)] == expected
        assert len(received) - len(expected) < 40_000

    check()


def test_streams(run):
    """Messages of all sizes, more than the reader's limit, and an invalid waiter."""

    class Foreign:
        def cancelled(self):
            return False

        def set_result(self, value):
            raise ValueError("not now")

    async def serve(reader, writer):
        for size in SIZES:
            writer.write(await reader.readexactly(size))
            await writer.drain()
        served.set_result((reader, writer))

    async def main():
        nonlocal served
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        served = loop.create_future()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context(), server_hostname=HOST
        )
        for size in SIZES:
            writer.write(BIG[:size])
            assert await reader.readexactly(size) == BIG[:size]
        remote_reader, remote_writer = await served
        writer.write(BIG)
        while not remote_reader._paused:
            await asyncio.sleep(0.001)
        assert not remote_writer.transport.is_reading()
        assert len(remote_reader._buffer) < len(BIG)
        assert await remote_reader.readexactly(len(BIG)) == BIG
        remote_reader._waiter = Foreign()
        writer.write(b"x")
        while not reported:
            await asyncio.sleep(0.001)
        assert str(reported[0]["exception"]) == "not now"
        assert reported[0]["message"] == "Fatal error on SSL protocol"
        assert await reader.read() == b""
        writer.close()
        server.close()
        for each in (writer, remote_writer):
            with contextlib.suppress(ValueError, ssl.SSLError):
                await each.wait_closed()
        loop.set_exception_handler(None)

    served = None
    run(main())
