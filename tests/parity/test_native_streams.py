"""Readers and writers that native transports serve: they must be asyncio's in all but speed."""

import asyncio
import contextlib
import gc
import inspect
import random
import socket
import sys
import unittest.mock
import weakref

import pytest

from ..support.certificates import HOST, client_context, server_context

WORDS = (b"", b"a", b"\n", b"ab\n", b"\r\n", b"--", b"-", b"x" * 50, b"y" * 500, b"z\n" * 40)


class Pair:
    """A server's reader and writer, and a client's, of one connection."""

    def __init__(self, tls=False, limit=2**16):
        self.tls, self.limit = tls, limit

    async def __aenter__(self):
        connected = asyncio.get_running_loop().create_future()
        finished = self.finished = asyncio.Event()

        async def handle(reader, writer):
            connected.set_result((reader, writer))
            await finished.wait()

        secure = {"ssl": server_context()} if self.tls else {}
        self.server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=self.limit, **secure)
        secure = {"ssl": client_context(), "server_hostname": HOST} if self.tls else {}
        address = self.server.sockets[0].getsockname()
        self.client_reader, self.client = await asyncio.open_connection(
            *address, limit=self.limit, **secure
        )
        self.reader, self.writer = await connected
        return self

    async def __aexit__(self, *exception):
        self.finished.set()
        for writer in (self.client, self.writer):
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self.server.close()
        if handlers := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(handlers)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request):
    return request.param


@pytest.fixture(params=["server", "client"])
def side(request):
    return request.param


def ends(pair, side):
    """The reader of one side, and the writer that feeds it."""
    if side == "server":
        return pair.reader, pair.client
    return pair.client_reader, pair.writer


class Model:
    """What the methods return for a stream of known contents."""

    def __init__(self, data):
        self.left = data

    def take(self, length: int) -> bytes:
        taken, self.left = self.left[:length], self.left[length:]
        return taken

    def readexactly(self, n):
        return self.take(n) if len(self.left) >= n else (n, self.take(n))

    def readuntil(self, separator):
        end = self.left.find(separator)
        return (None, self.take(len(self.left))) if end < 0 else self.take(end + len(separator))

    def readline(self):
        found = self.readuntil(b"\n")
        return found[1] if isinstance(found, tuple) else found


async def attempt(awaitable):
    try:
        return await awaitable
    except asyncio.IncompleteReadError as error:
        return error.expected, error.partial


async def read_all(random, reader, model):
    """Read the whole stream by random methods."""
    while model.left or not reader.at_eof():
        kind = random.choice(["read", "readexactly", "readuntil", "readline", "peek", "cancel"])
        if kind == "read":
            got = await reader.read(random.choice([1, 3, 100, 10_000]))
            assert model.take(len(got)) == got
            assert got or not model.left
        elif kind == "readexactly":
            size = random.choice([1, 2, 7, 100, 3000])
            assert await attempt(reader.readexactly(size)) == model.readexactly(size)
        elif kind == "readuntil":
            separator = random.choice([b"\n", b"--", b"\r\n", b"-\n"])
            assert await attempt(reader.readuntil(separator)) == model.readuntil(separator)
        elif kind == "readline":
            assert await reader.readline() == model.readline()
        elif kind == "peek":
            # Python code that looks into the buffer, as some libraries do.
            assert model.left.startswith(bytes(reader._buffer))
        else:
            task = asyncio.ensure_future(reader.readexactly(random.choice([1, 10, 5000])))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            if not task.cancelled():
                got = await attempt(task)
                taken = got[1] if isinstance(got, tuple) else got
                assert model.take(len(taken)) == taken


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_reads(run, tls, side, seed):
    generator = random.Random(seed)
    pieces = [
        b"".join(generator.choices(WORDS, k=generator.randrange(1, 12)))
        for _ in range(generator.randrange(1, 40))
    ]

    async def main():
        async with Pair(tls) as pair:
            reader, writer = ends(pair, side)

            async def send():
                for piece in pieces:
                    writer.write(piece)
                    for _ in range(generator.randrange(4)):
                        await asyncio.sleep(0)
                if tls:
                    writer.close()
                else:
                    writer.write_eof()

            sending = asyncio.ensure_future(send())
            await read_all(random.Random(seed), reader, Model(b"".join(pieces)))
            await sending

    run(main())


def test_errors_of_the_limit(run, side):
    """The same exceptions with the same texts, and the same bytes left."""

    async def main():
        async with Pair(limit=64) as pair:
            reader, writer = ends(pair, side)
            writer.write(b"x" * 100 + b"\n" + b"y" * 30 + b"\nlast")
            writer.write_eof()
            while b"last" not in reader._buffer:
                await asyncio.sleep(0)
            found = []
            for read in (
                reader.readuntil,
                reader.readline,
                reader.readline,
                lambda: reader.readexactly(100),
                reader.readline,
            ):
                try:
                    found.append(await read())
                except Exception as error:
                    found.append((type(error), str(error), type(error.__context__)))
            return found

    assert run(main()) == [
        (
            asyncio.LimitOverrunError,
            "Separator is found, but chunk is longer than limit",
            type(None),
        ),
        (
            ValueError,
            "Separator is found, but chunk is longer than limit",
            asyncio.LimitOverrunError,
        ),
        b"y" * 30 + b"\n",
        (
            asyncio.IncompleteReadError,
            "4 bytes read on a total of 100 expected bytes",
            type(None),
        ),
        b"",
    ]


def test_what_the_objects_look_like(run, side):
    async def main():
        async with Pair() as pair:
            reader, writer = ends(pair, side)
            writer.write(b"abc")
            assert await reader.readexactly(1) == b"a"
            assert isinstance(reader, asyncio.StreamReader)
            assert isinstance(pair.writer, asyncio.StreamWriter)
            assert type(reader).__name__ == "StreamReader"
            assert type(reader).__module__ == "asyncio.streams"
            assert repr(reader).startswith("<StreamReader 2 bytes transport=<")
            assert repr(pair.writer).startswith("<StreamWriter transport=<")
            assert weakref.ref(reader)() is reader
            reader.mark = 1
            assert reader.mark == 1
            reading = reader.read(10)
            assert inspect.isawaitable(reading)
            assert asyncio.iscoroutine(reading)
            assert await asyncio.create_task(reading) == b"bc"
            signatures = [
                str(inspect.signature(method))
                for method in (reader.read, reader.readexactly, reader.readline, pair.writer.drain)
            ]
            assert signatures == ["(n=-1)", "(n)", "()", "()"]
            assert await reader.read(n=0) == b""
            for wrong in (
                lambda: reader.read(1, 2),
                lambda: reader.readexactly(),
                lambda: reader.readline(1),
                lambda: reader.at_eof(1),
                lambda: pair.writer.drain(1),
                lambda: pair.writer.write(),
                lambda: reader.read(m=1),
            ):
                with pytest.raises(TypeError):
                    wrong()
            with pytest.raises(ValueError, match="readexactly size can not be less than zero"):
                await reader.readexactly(-1)
            with pytest.raises(ValueError, match="Separator should be at least one-byte string"):
                await reader.readuntil(b"")

    run(main())


def test_a_coroutine_that_is_not_awaited_warns(run):
    async def main():
        async with Pair() as pair:
            pair.client.write(b"abc")
            await pair.reader.read(1)
            with pytest.warns(RuntimeWarning, match="'StreamReader.read' was never awaited"):
                pair.reader.read(1)
                gc.collect()
            with pytest.warns(RuntimeWarning, match="'StreamWriter.drain' was never awaited"):
                pair.writer.drain()
                gc.collect()
            reading = pair.reader.read(1)
            assert await reading == b"b"
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                await reading

    run(main())


@pytest.mark.parametrize("how", ["cancel", "close", "drop", "throw"])
def test_a_read_that_ends_early_frees_the_reader(run, side, how):
    async def main():
        async with Pair() as pair:
            reader, writer = ends(pair, side)
            writer.write(b"a")
            await reader.read(1)
            if how == "cancel":
                task = asyncio.create_task(reader.read(1))
                await asyncio.sleep(0)
                with pytest.raises(RuntimeError, match="read\\(\\) called while another"):
                    await reader.read(1)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            else:
                reading = reader.read(1)
                assert reading.send(None) is reader._waiter
                if how == "close":
                    reading.close()
                elif how == "throw":
                    with pytest.raises(KeyError):
                        reading.throw(KeyError("thrown"))
                del reading
                gc.collect()
            assert reader._waiter is None
            writer.write(b"b")
            return await reader.read(1)

    assert run(main()) == b"b"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (asyncio.StreamReader, "read"),
        (asyncio.StreamReader, "readline"),
        (asyncio.StreamReader, "_wait_for_data"),
        (asyncio.StreamReader, "feed_data"),
        (asyncio.StreamWriter, "drain"),
        (asyncio.StreamWriter, "write"),
    ],
)
@pytest.mark.parametrize("where", ["class", "instance"])
def test_a_method_that_is_replaced_later_is_called(run, monkeypatch, owner, name, where):
    async def main():
        async with Pair() as pair:
            pair.client.write(b"one\n")
            assert await pair.reader.readline() == b"one\n"
            target = pair.reader if owner is asyncio.StreamReader else pair.writer
            original, calls = getattr(owner, name), []

            def replacement(self, *arguments):
                calls.append(name)
                return original(self, *arguments)

            if where == "class":
                monkeypatch.setattr(owner, name, replacement)
            else:
                monkeypatch.setattr(target, name, replacement.__get__(target))
            line = asyncio.create_task(pair.reader.readline())
            data = asyncio.create_task(asyncio.sleep(0))
            await data
            pair.client.write(b"two\nthree")
            assert await line == b"two\n"
            assert await pair.reader.read(100) in (b"three", b"three"[:5])
            pair.writer.write(b"x")
            await pair.writer.drain()
            monkeypatch.undo()
            return calls

    assert name in run(main())


def test_the_buffer_that_a_program_holds_grows(run, side):
    async def main():
        async with Pair() as pair:
            reader, writer = ends(pair, side)
            writer.write(b"a")
            await reader.read(1)
            buffer = reader._buffer
            writer.write(b"bc")
            while len(buffer) < 2:
                await asyncio.sleep(0)
            del buffer[:1]
            assert await reader.read(10) == b"c"
            reader._buffer = bytearray(b"mine")
            assert await reader.readexactly(2) == b"mi"
            reader.feed_data(b"!")
            return await reader.read(10)

    assert run(main()) == b"ne!"


def test_a_reader_that_a_program_makes_itself(run):
    """Of the class of one that a transport serves."""

    async def main():
        async with Pair() as pair:
            pair.client.write(b"a")
            await pair.reader.read(1)
            reader = type(pair.reader)(limit=10)
            assert repr(reader) == "<StreamReader limit=10>"
            reader.feed_data(b"line\nrest")
            assert await reader.readline() == b"line\n"
            reader.feed_eof()
            assert await reader.read() == b"rest"
            assert reader.at_eof()
            reader.set_exception(OSError("broken"))
            with pytest.raises(OSError, match="broken"):
                await reader.read(1)

    run(main())


def test_drain_waits_and_fails_as_asyncios(run):
    async def main():
        async with Pair() as pair:
            pair.client.write(b"a")
            await pair.reader.read(1)
            await pair.writer.drain()
            pair.writer.transport.set_write_buffer_limits(high=10)
            pair.writer.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
            )
            pair.writer.write(bytes(8_000_000))
            draining = asyncio.create_task(pair.writer.drain())
            await asyncio.sleep(0.01)
            assert not draining.done()
            assert len(await pair.client_reader.readexactly(8_000_000)) == 8_000_000
            await draining
            pair.client.transport.abort()
            with pytest.raises(ConnectionError):
                while True:
                    pair.writer.write(b"x")
                    await pair.writer.drain()
                    await asyncio.sleep(0)

    run(main())


def test_a_mock_of_a_reader(run):
    async def main():
        async with Pair() as pair:
            pair.client.write(b"a")
            await pair.reader.read(1)
            mock = unittest.mock.create_autospec(pair.reader, instance=True)
            mock.read.return_value = b"mocked"
            return await mock.read(1)

    assert run(main()) == b"mocked"


def test_a_connection_leaves_nothing_behind(run):
    async def main():
        async with Pair() as pair:
            pair.client.write(b"a")
            await pair.reader.read(1)
            references = [weakref.ref(it) for it in (pair.reader, pair.client_reader)]
        del pair
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()
        return [reference() for reference in references]

    assert run(main()) == [None, None]


@pytest.mark.skipif(sys.version_info < (3, 15), reason="earlier versions look at the frame")
def test_states_of_coroutines(loop):
    async def main():
        near, far = socket.socketpair()
        far.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=near)
        await loop.sock_sendall(far, b"x")
        assert await reader.read(1) == b"x"
        for coroutine in (loop.sock_recv(far, 1), reader.read(1)):
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
            task = loop.create_task(coroutine)
            await asyncio.sleep(0)
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
            task.cancel()
            await asyncio.wait([task])
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        writer.close()
        far.close()
        await writer.wait_closed()

    loop.run_until_complete(main())
