"""open_connection, start_server, StreamReader and StreamWriter."""

import asyncio
import contextlib
import gc
import socket
import sys
import threading

import pytest

from ..support import peers
from ..support.certificates import HOST, client_context, server_context


async def answer(reader, writer):
    """Sends every line back in upper case."""
    async for line in reader:
        writer.write(line.upper())
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def serving(handler=answer, **options):
    server = await asyncio.start_server(handler, "127.0.0.1", 0, **options)
    return server, server.sockets[0].getsockname()


async def finish(server):
    server.close()
    await server.wait_closed()
    # In 3.11 this does not wait for the handlers.
    if handlers := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(handlers)


async def end(writer):
    writer.close()
    await writer.wait_closed()


def test_lines(run):
    async def main():
        server, address = await serving()
        reader, writer = await asyncio.open_connection(*address)
        found = []
        for word in ("one", "two", "three"):
            writer.write(f"{word}\n".encode())
            await writer.drain()
            found.append(await reader.readline())
        writer.write_eof()
        found.append(await reader.read())
        await end(writer)
        await finish(server)
        return found

    assert run(main()) == [b"ONE\n", b"TWO\n", b"THREE\n", b""]


def test_read_methods(run):
    def serve(connection):
        connection.sendall(b"0123456789|rest of it\nlast")

    with peers.listening(serve) as address:

        async def main():
            reader, writer = await asyncio.open_connection(*address)
            found = [
                await reader.readexactly(4),
                await reader.readuntil(b"|"),
                await reader.readline(),
            ]
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await reader.readexactly(10)
            found.append(caught.value.partial)
            assert reader.at_eof()
            found.append(await reader.read())
            await end(writer)
            return found

        assert run(main()) == [b"0123", b"456789|", b"rest of it\n", b"last", b""]


def test_limit(run):
    def serve(connection):
        connection.sendall(b"x" * 1000 + b"\n")

    with peers.listening(serve) as address:

        async def main():
            reader, writer = await asyncio.open_connection(*address, limit=100)
            with pytest.raises(ValueError, match="Separator is"):
                await reader.readline()
            await end(writer)

        run(main())


def test_large_transfer_with_back_pressure(run):
    data = bytes(range(256)) * 40_000  # 10 MB

    async def main():
        async def echo(reader, writer):
            while chunk := await reader.read(100_000):
                writer.write(chunk)
                await writer.drain()
            await end(writer)

        server, address = await serving(echo)
        reader, writer = await asyncio.open_connection(*address)

        async def send():
            for start in range(0, len(data), 50_000):
                writer.write(data[start : start + 50_000])
                await writer.drain()
            writer.write_eof()

        _, received = await asyncio.gather(send(), reader.read())
        await end(writer)
        await finish(server)
        return received == data

    assert run(main())


def test_drain_waits_for_a_slow_reader(run):
    go, found = threading.Event(), []

    def serve(connection):
        go.wait(peers.SECONDS)
        found.append(len(peers.receive_all(connection)))

    with peers.listening(serve) as address:

        async def main():
            _, writer = await asyncio.open_connection(*address)
            writer.write(b"x" * 30_000_000)
            drain = asyncio.create_task(writer.drain())
            await asyncio.sleep(0.02)
            assert not drain.done()
            go.set()
            await drain
            await end(writer)

        run(main())
    assert found == [30_000_000]


def test_cancelled_read_loses_nothing(run):
    async def main():
        async def slow(reader, writer):
            await reader.readline()
            writer.write(b"answer\n")
            await end(writer)

        server, address = await serving(slow)
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readline(), 0.005)
        writer.write(b"go\n")
        found = await reader.readline()
        await end(writer)
        await finish(server)
        return found

    assert run(main()) == b"answer\n"


def test_two_readers_at_once(run):
    with peers.listening(peers.receive_all) as address:

        async def main():
            reader, writer = await asyncio.open_connection(*address)
            first = asyncio.create_task(reader.read(1))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError) as caught:
                await reader.read(1)
            first.cancel()
            await end(writer)
            return str(caught.value)

        expected = "read() called while another coroutine is already waiting for incoming data"
        assert run(main()) == expected


def test_reset_while_reading(run):
    def serve(connection):
        connection.recv(1)
        peers.reset(connection)

    with peers.listening(serve) as address:

        async def main():
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            with pytest.raises(ConnectionResetError):
                await writer.wait_closed()

        run(main())


@pytest.mark.skipif(sys.version_info < (3, 11, 7), reason="left the connection open, early in 3.11")
def test_handler_exception(run, log):
    async def main():
        async def bad(reader, writer):
            await reader.readline()
            raise ZeroDivisionError("in handler")

        server, address = await serving(bad)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x\n")
        found = await reader.read()
        await end(writer)
        await finish(server)
        gc.collect()
        return found

    assert run(main()) == b""
    messages = log.messages()
    assert messages[0].startswith(
        ("Unhandled exception in client_connected_cb", "Task exception was never retrieved")
    )


def test_extra_info_and_attributes(run):
    async def main():
        server, address = await serving()
        reader, writer = await asyncio.open_connection(*address)
        assert writer.get_extra_info("peername") == address
        assert writer.transport.get_extra_info("peername") == address
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        assert not writer.is_closing()
        assert writer.can_write_eof()
        assert repr(writer).startswith("<StreamWriter transport=<")
        await end(writer)
        assert writer.is_closing()
        await finish(server)

    run(main())


def test_many_clients(run):
    async def main():
        server, address = await serving()

        async def talk(number):
            reader, writer = await asyncio.open_connection(*address)
            for i in range(10):
                writer.write(b"%d %d a\n" % (number, i))
                assert await reader.readline() == b"%d %d A\n" % (number, i)
            await end(writer)

        await asyncio.gather(*[talk(number) for number in range(50)])
        await finish(server)

    run(main())


def test_unix_sockets(run, tmp_path):
    path = tmp_path / "socket"

    async def main():
        server = await asyncio.start_unix_server(answer, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"over unix\n")
        found = await reader.readline()
        await end(writer)
        await finish(server)
        return found

    assert run(main()) == b"OVER UNIX\n"


# --- only the stock classes are fed natively --------------------------------------------------


def recording(calls, name, original):
    """A replacement of a method that records the call and does the same."""

    def replacement(*args):
        calls.append(name)
        return original(*args)

    return replacement


PATCHED = [
    (asyncio.StreamReaderProtocol, "data_received"),
    (asyncio.StreamReader, "feed_data"),
    (asyncio.StreamReader, "_wakeup_waiter"),
]


async def exchange(over_tls, prepare=lambda reader, writer: None):
    """Two messages read by a server after `prepare` was called with its streams."""
    served = {"ssl": server_context()} if over_tls else {}
    connected = {"ssl": client_context(), "server_hostname": HOST} if over_tls else {}

    async def serve(reader, writer):
        prepare(reader, writer)
        writer.write(await reader.readexactly(3) + await reader.readline())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, **served) as server:
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address, **connected)
        await asyncio.sleep(0.01)
        writer.write(b"one")
        await asyncio.sleep(0.01)
        writer.write(b"two\n")
        assert await reader.read() == b"onetwo\n"
        writer.close()
        await writer.wait_closed()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def over_tls(request):
    return request.param


@pytest.mark.parametrize(("owner", "name"), PATCHED)
def test_methods_replaced_on_the_class(run, over_tls, monkeypatch, owner, name):
    calls = []
    monkeypatch.setattr(owner, name, recording(calls, name, getattr(owner, name)))
    run(exchange(over_tls))
    assert calls.count(name) >= 3
    monkeypatch.undo()
    seen = len(calls)
    run(exchange(over_tls))
    assert len(calls) == seen


@pytest.mark.parametrize(("owner", "name"), PATCHED)
def test_methods_replaced_on_the_instance(run, over_tls, owner, name):
    calls = []

    def prepare(reader, writer):
        protocol = writer.transport.get_protocol()
        target = reader if owner is asyncio.StreamReader else protocol
        setattr(target, name, recording(calls, name, getattr(target, name)))

    run(exchange(over_tls, prepare))
    # The end of the stream wakes the waiter as well.
    assert calls.count(name) >= 2


def test_property_replaced_on_the_class(run, over_tls, monkeypatch):
    calls = []
    original = asyncio.StreamReaderProtocol._stream_reader
    monkeypatch.setattr(
        asyncio.StreamReaderProtocol,
        "_stream_reader",
        property(recording(calls, "_stream_reader", original.fget)),
    )
    run(exchange(over_tls))
    assert len(calls) >= 3


def test_attribute_hook_on_the_class(run, over_tls, monkeypatch):
    seen = set()

    def hook(self, name):
        seen.add(name)
        return object.__getattribute__(self, name)

    monkeypatch.setattr(asyncio.StreamReader, "__getattribute__", hook, raising=False)
    run(exchange(over_tls))
    assert {"feed_data", "_wakeup_waiter", "_buffer"} <= seen


def test_subclasses(run):
    calls = []

    class Reader(asyncio.StreamReader):
        def feed_data(self, data):
            calls.append(("feed_data", type(data), bytes(data)))
            super().feed_data(data)

    class Protocol(asyncio.StreamReaderProtocol):
        def data_received(self, data):
            calls.append(("data_received", type(data), bytes(data)))
            super().data_received(data)

    async def main():
        ours, peer = socket.socketpair()
        with peer:
            reader = Reader()
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_unix_connection(
                lambda: asyncio.StreamReaderProtocol(reader), sock=ours
            )
            peer.send(b"one")
            assert await reader.read(10) == b"one"
            stock = asyncio.StreamReader()
            protocol = Protocol(stock)
            transport.set_protocol(protocol)
            peer.send(b"two")
            assert await stock.read(10) == b"two"
            transport.close()
            await asyncio.sleep(0)

    run(main())
    assert calls == [("feed_data", bytes, b"one"), ("data_received", bytes, b"two")]


class Bytes(bytearray):
    """A subclass of bytearray."""


@pytest.mark.parametrize("kind", ["subclass", "exported"])
def test_buffers_that_are_not_plain_bytearrays(run, kind):
    """A subclass is extended by its own method; a buffer with an exported view cannot grow, which
    is fatal."""

    async def main():
        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        ours, peer = socket.socketpair()
        with peer:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            peer.send(b"one")
            while len(reader._buffer) < 3:
                await asyncio.sleep(0.001)
            if kind == "subclass":
                reader._buffer = Bytes(reader._buffer)
            else:
                view = memoryview(reader._buffer)
            peer.send(b"two")
            if kind == "subclass":
                assert await reader.readexactly(6) == b"onetwo"
                assert isinstance(reader._buffer, Bytes)
            else:
                while not reported:
                    await asyncio.sleep(0.001)
                assert isinstance(reported[0]["exception"], BufferError)
                assert reported[0]["message"] == (
                    "Fatal error: protocol.data_received() call failed."
                )
                view.release()
                with pytest.raises(BufferError):
                    await reader.readexactly(6)
            writer.close()
            with contextlib.suppress(BufferError):
                await writer.wait_closed()
        loop.set_exception_handler(None)
        assert len(reported) == (kind == "exported")

    run(main())


def test_waiters_of_any_kind(run):
    """Waiters that are done or cancelled, and one that is not a future of the loop."""

    class Foreign:
        result = "none"

        def cancelled(self):
            return False

        def set_result(self, value):
            self.result = value

    async def main():
        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        ours, peer = socket.socketpair()
        with peer:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            foreign = Foreign()
            cancelled, done = loop.create_future(), loop.create_future()
            cancelled.cancel()
            done.set_result(None)
            for number, waiter in enumerate((foreign, cancelled, done), 1):
                reader._waiter = waiter
                peer.send(b"x")
                while len(reader._buffer) < number:
                    await asyncio.sleep(0.001)
                assert reader._waiter is None
            assert foreign.result is None
            (context,) = reported
            assert isinstance(context["exception"], asyncio.InvalidStateError)
            assert context["message"] == "Fatal error: protocol.data_received() call failed."
            assert writer.is_closing()
            with pytest.raises(asyncio.InvalidStateError):
                await writer.wait_closed()
        loop.set_exception_handler(None)

    run(main())


def test_pausing_at_twice_the_limit(run):
    """If the transport can't be paused, reading never pauses; the limit may change meanwhile."""

    async def main():
        ours, peer = socket.socketpair()
        with peer:
            peer.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=100)
            peer.send(b"x" * 200)
            while len(reader._buffer) < 200:
                await asyncio.sleep(0.001)
            assert not reader._paused
            peer.send(b"x")
            while not reader._paused:
                await asyncio.sleep(0.001)
            assert not writer.transport.is_reading()
            assert len(await reader.read(150)) == 150
            assert writer.transport.is_reading()
            reader._limit = 10
            peer.send(b"x" * 10)
            while not reader._paused:
                await asyncio.sleep(0.001)
            await reader.read(1000)

            class Restless:
                def pause_reading(self):
                    raise NotImplementedError

            reader._transport = Restless()
            peer.send(b"x" * 1000)
            while len(reader._buffer) < 1000:
                await asyncio.sleep(0.001)
            assert reader._transport is None
            writer.close()
            await writer.wait_closed()

    run(main())


def test_feeding_after_eof(run):
    async def main():
        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        ours, peer = socket.socketpair()
        with peer:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            reader.feed_eof()
            peer.send(b"late")
            while not reported:
                await asyncio.sleep(0.001)
            assert str(reported[0]["exception"]) == "feed_data after feed_eof"
            with pytest.raises(AssertionError):
                await writer.wait_closed()
        loop.set_exception_handler(None)

    run(main())


def test_an_unreferenced_reader(run):
    """Data received for it is dropped."""

    async def main():
        ours, peer = socket.socketpair()
        with peer:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            writer._reader = None
            del reader
            peer.send(b"data")
            await asyncio.sleep(0.01)
            assert writer.transport.get_protocol()._stream_reader is None
            assert not writer.is_closing()
            writer.close()
            await asyncio.sleep(0.01)

    run(main())
