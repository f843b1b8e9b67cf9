"""connect_read_pipe and connect_write_pipe: pipes, FIFOs, sockets and terminals."""

import asyncio
import contextlib
import contextvars
import errno
import fcntl
import gc
import logging
import os
import pty
import socket
import tempfile
import threading
import tty
from asyncio import unix_events

import pytest

from ..support.protocols import Recorder
from ..support.sequences import CAN_ACT_WHEN_MADE

HAS_IS_READING = "is_reading" in vars(unix_events._UnixReadPipeTransport)

BIG = bytes(range(256)) * 4096  # 1 MiB: more than a pipe can buffer


def pipe_ends():
    """Both ends of a pipe, as unbuffered files."""
    read, write = os.pipe()
    return open(read, "rb", 0), open(write, "wb", 0)


def fifo_ends():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "fifo")
        os.mkfifo(path)
        read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return open(read, "rb", 0), open(path, "wb", 0)


def socket_ends():
    return socket.socketpair()


def terminal_ends():
    """The controlling end reads what is written to the terminal."""
    control, terminal = pty.openpty()
    tty.setraw(terminal)
    return open(control, "rb", 0), open(terminal, "wb", 0)


def null_device(mode):
    return open(os.open(os.devnull, os.O_RDWR), mode, 0)


KINDS = [pipe_ends, fifo_ends, socket_ends, terminal_ends]


async def reading(pipe, factory=Recorder):
    return await asyncio.get_running_loop().connect_read_pipe(factory, pipe)


async def writing(pipe, factory=Recorder):
    return await asyncio.get_running_loop().connect_write_pipe(factory, pipe)


async def settled():
    """Run several turns, so that everything queued or ready now is done."""
    for _ in range(5):
        await asyncio.sleep(0.001)


def read_exactly(fd, size):
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return data


# --- both ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", KINDS, ids=lambda ends: ends.__name__)
def test_both_ends(run, ends):
    """Data passes through, then the end of the stream."""

    async def main():
        read, write = ends()
        reader, received = await reading(read)
        writer, written = await writing(write)
        assert isinstance(reader, asyncio.ReadTransport)
        assert not isinstance(reader, asyncio.WriteTransport)
        assert isinstance(writer, asyncio.WriteTransport)
        assert not os.get_blocking(read.fileno())
        assert not os.get_blocking(write.fileno())
        for data in (b"one", bytearray(b"two"), memoryview(b"three"), b""):
            writer.write(data)
        writer.writelines([b"four", bytearray(b"five"), memoryview(b"six")])
        await received.until(lambda: len(received.received) == 22)
        assert received.received == b"onetwothreefourfivesix"
        assert writer.can_write_eof()
        writer.write_eof()
        assert writer.is_closing()
        assert await written.done is None
        error = await received.done
        if ends is terminal_ends:
            # The end of a terminal is a read error.
            assert error.errno == errno.EIO
            assert received.calls == ["made", "data", "lost"]
        else:
            assert error is None
            assert received.calls == ["made", "data", "eof", "lost"]
        assert written.calls == ["made", "lost"]
        for pipe in (read, write):
            assert pipe.fileno() == -1 if ends is socket_ends else pipe.closed

    run(main())


@pytest.mark.parametrize("ends", [pipe_ends, socket_ends], ids=lambda ends: ends.__name__)
def test_large_transfer(run, ends):
    async def main():
        read, write = ends()
        reader, received = await reading(read)
        writer, written = await writing(write)
        for _ in range(8):
            writer.write(BIG)
        writer.close()
        assert await written.done is None
        assert await received.done is None
        assert received.received == BIG * 8
        assert "pause" in written.calls
        assert "resume" in written.calls

    run(main())


def test_very_many_small_writes(run):
    count = 20_000

    async def main():
        read, write = pipe_ends()
        writer, written = await writing(write)
        for number in range(count):
            writer.write(b"%c" % (number % 256))
        reader, received = await reading(read)
        writer.close()
        await received.done
        assert received.received == bytes(number % 256 for number in range(count))

    run(main())


def test_extra_info_and_repr(run):
    async def main():
        read, write = pipe_ends()
        reader, received = await reading(read)
        writer, written = await writing(write)
        for transport, pipe in [(reader, read), (writer, write)]:
            assert transport.get_extra_info("pipe") is pipe
            assert transport.get_extra_info("socket") is None
            assert transport.get_extra_info("peername", "default") == "default"
        texts = [repr(reader), repr(writer)]
        assert texts == [
            f"<_UnixReadPipeTransport fd={read.fileno()} polling>",
            f"<_UnixWritePipeTransport fd={write.fileno()} idle bufsize=0>",
        ]
        fds = read.fileno(), write.fileno()
        reader.pause_reading()
        assert repr(reader) == f"<_UnixReadPipeTransport fd={fds[0]} idle>"
        writer.write(BIG)
        size = writer.get_write_buffer_size()
        assert 0 < size < len(BIG)
        assert repr(writer) == f"<_UnixWritePipeTransport fd={fds[1]} polling bufsize={size}>"
        assert len(writer._buffer) == size
        writer.close()
        assert repr(writer) == (
            f"<_UnixWritePipeTransport closing fd={fds[1]} polling bufsize={size}>"
        )
        reader.close()
        assert repr(reader) == f"<_UnixReadPipeTransport closing fd={fds[0]} idle>"
        await received.done
        await written.done
        await asyncio.sleep(0)
        assert repr(reader) == f"<_UnixReadPipeTransport closed fd={fds[0]} closed>"
        assert repr(writer) == f"<_UnixWritePipeTransport closed fd={fds[1]} closed>"
        assert reader.get_extra_info("pipe") is read

    run(main())


def test_missing_methods(run):
    async def main():
        read, write = pipe_ends()
        reader, received = await reading(read)
        writer, written = await writing(write)
        for name in ("abort", "write", "writelines", "get_write_buffer_size", "write_eof"):
            assert not hasattr(reader, name)
        with pytest.raises(AttributeError, match="'_UnixReadPipeTransport' object has no attri"):
            reader.abort()
        for name in ("is_reading", "pause_reading", "resume_reading"):
            with pytest.raises(NotImplementedError):
                getattr(writer, name)()
        reader.close()
        writer.close()
        await received.done
        await written.done

    run(main())


@pytest.mark.parametrize(
    ("connect", "text"),
    [
        ("connect_read_pipe", "Pipe transport is for pipes/sockets only."),
        ("connect_write_pipe", "Pipe transport is only for pipes, sockets and character devices"),
    ],
)
def test_regular_files_are_refused(run, connect, text):
    async def main():
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryFile() as file:
            with pytest.raises(ValueError) as caught:
                await getattr(loop, connect)(Recorder, file)
            assert str(caught.value) == text
            assert not file.closed

    run(main())


@pytest.mark.parametrize("connect", ["connect_read_pipe", "connect_write_pipe"])
@pytest.mark.only("ferroloop")  # asyncio's half-initialised transport fails in its finalizer
def test_closed_files_are_refused(run, connect):
    async def main():
        loop = asyncio.get_running_loop()
        ends = pipe_ends()
        for file in ends:
            file.close()
            with pytest.raises(ValueError, match="I/O operation on closed file"):
                await getattr(loop, connect)(Recorder, file)
        ours, peer = socket.socketpair()
        for sock in (ours, peer):
            sock.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                await getattr(loop, connect)(Recorder, sock)

    run(main())


def test_the_null_device(run):
    """It accepts everything, and cannot be watched."""

    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        writer, written = await writing(null_device("wb"))
        writer.write(BIG)
        assert writer.get_write_buffer_size() == 0
        writer.close()
        assert await written.done is None
        assert not reported
        reader, received = await reading(null_device("rb"))
        await settled()
        assert isinstance(reported[0]["exception"], PermissionError)
        assert "_add_reader" in reported[0]["message"]
        reader.close()
        assert await received.done is None
        loop.set_exception_handler(None)

    run(main())


@pytest.mark.parametrize("end", ["read", "write"])
def test_cancelled_while_connecting(run, end):
    async def main():
        read, write = pipe_ends()
        protocols = []

        def factory():
            protocols.append(Recorder())
            return protocols[0]

        connecting = reading(read, factory) if end == "read" else writing(write, factory)
        task = asyncio.create_task(connecting)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await protocols[0].done is None
        assert (read if end == "read" else write).closed
        read.close()
        write.close()

    run(main())


def test_other_callbacks_may_watch_the_descriptor(run):
    """asyncio's pipes don't claim their descriptor, unlike sockets."""

    async def main():
        loop = asyncio.get_running_loop()
        read, write = pipe_ends()
        reader, received = await reading(read)
        loop.add_writer(write.fileno(), print)
        loop.remove_writer(write.fileno())
        assert loop.remove_reader(read.fileno())
        assert not loop.remove_reader(read.fileno())
        reader.close()
        write.close()
        await received.done

    run(main())


@pytest.mark.parametrize("end", [0, 1])
def test_dropped_transport_warns(run, end):
    async def main():
        ends = pipe_ends()
        transport, protocol = await (writing if end else reading)(ends[end])
        if end:
            asyncio.get_running_loop().remove_reader(ends[end].fileno())
        else:
            transport.pause_reading()
        text = f"unclosed transport {transport!r}"
        await settled()
        with pytest.warns(ResourceWarning) as caught:
            protocol.transport = None
            del transport, protocol
            gc.collect()
        assert text in [str(warning.message) for warning in caught]
        assert ends[end].closed
        ends[1 - end].close()

    run(main())


# --- reading ----------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_IS_READING, reason="pipes of early 3.11 have no is_reading()")
def test_pause_and_resume_reading(run):
    async def main():
        read, write = pipe_ends()
        reader, received = await reading(read)
        assert reader.is_reading()
        reader.pause_reading()
        reader.pause_reading()
        assert not reader.is_reading()
        os.write(write.fileno(), b"data")
        await settled()
        assert received.calls == ["made"]
        reader.resume_reading()
        reader.resume_reading()
        await received.until(lambda: received.received == b"data")
        reader.close()
        assert not reader.is_reading()
        reader.resume_reading()
        reader.pause_reading()
        os.write(write.fileno(), b"more")
        assert await received.done is None
        assert received.received == b"data"
        write.close()

    run(main())


def test_protocols_that_raise_while_reading(run):
    """It is reported, and the pipe stays open."""

    async def main():
        class Bad(Recorder):
            def data_received(self, data):
                super().data_received(data)
                raise ZeroDivisionError

            def eof_received(self):
                super().eof_received()
                raise KeyError

            def connection_lost(self, error):
                super().connection_lost(error)
                raise IndexError

        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        read, write = pipe_ends()
        reader, received = await reading(read, Bad)
        for count in (1, 2):
            os.write(write.fileno(), b"data")
            await received.until(lambda count=count: received.received == b"data" * count)
        assert not reader.is_closing()
        write.close()
        assert await received.done is None
        await settled()
        kinds = [type(context["exception"]) for context in reported]
        assert kinds == [ZeroDivisionError, ZeroDivisionError, KeyError, IndexError]
        assert all(c["message"].startswith("Exception in callback ") for c in reported)
        assert "_read_ready" in reported[0]["message"]
        assert set(reported[0]) >= {"message", "exception", "handle"}
        assert read.closed
        loop.set_exception_handler(None)

    run(main())


def test_a_read_error(run):
    async def main():
        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.close()
        peer.close()
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            connection, _ = server.accept()
            reader, received = await reading(client)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
            error = await received.done
        assert isinstance(error, ConnectionResetError)
        assert received.calls == ["made", "lost"]
        (context,) = reported
        assert context["message"] == "Fatal read error on pipe transport"
        assert context["exception"] is error
        assert context["transport"] is reader
        assert context["protocol"] is received
        loop.set_exception_handler(None)

    run(main())


def test_set_protocol(run):
    async def main():
        read, write = pipe_ends()
        reader, first = await reading(read)
        second = Recorder()
        second.calls.append("set")
        assert reader.get_protocol() is first
        reader.set_protocol(second)
        assert reader.get_protocol() is second
        os.write(write.fileno(), b"data")
        await second.until(lambda: second.received == b"data")
        write.close()
        assert await second.done is None
        assert first.calls == ["made"]
        assert reader.get_protocol() is None

    run(main())


def test_streams(run):
    """StreamReader and StreamWriter on the two ends."""

    async def main():
        loop = asyncio.get_running_loop()
        read, write = pipe_ends()
        reader = asyncio.StreamReader(limit=1000)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), read)
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(), write
        )
        writer = asyncio.StreamWriter(transport, protocol, None, loop)

        async def produce():
            for number in range(3000):
                writer.write(b"line %d\n" % number)
                await writer.drain()
            writer.close()

        producing = asyncio.create_task(produce())
        lines = [line async for line in reader]
        await producing
        assert lines == [b"line %d\n" % number for number in range(3000)]

    run(main())


# --- writing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [pipe_ends, fifo_ends, socket_ends], ids=lambda e: e.__name__)
@pytest.mark.parametrize("unwritten", [False, True])
def test_the_reader_closes(run, ends, unwritten):
    async def main():
        read, write = ends()
        writer, written = await writing(write)
        if unwritten:
            writer.write(BIG)
        read.close()
        error = await written.done
        if unwritten:
            # Through the failed write or the closed reader, whichever is noticed first.
            assert isinstance(error, ConnectionError)
        else:
            assert error is None
        assert written.calls[-1] == "lost"
        assert writer.get_write_buffer_size() == 0

    run(main())


def test_the_reader_closes_while_the_writer_is_closing(run):
    async def main():
        read, write = pipe_ends()
        writer, written = await writing(write)
        writer.write(BIG)
        writer.close()
        await settled()
        assert not written.done.done()
        read.close()
        assert isinstance(await written.done, BrokenPipeError)

    run(main())


def test_repeated_writes_after_loss_warn(run, log):
    async def main():
        read, write = pipe_ends()
        writer, written = await writing(write)
        read.close()
        for _ in range(8):
            writer.write(b"data")
        assert writer._conn_lost == 8
        error = await written.done
        assert isinstance(error, BrokenPipeError)
        writer.write(b"data")

    run(main())
    text = "pipe closed by peer or os.write(pipe, data) raised exception."
    assert [message for message in log.messages() if "Fatal" not in message] == [text] * 4


@pytest.mark.parametrize("bad", ["text", 1, None, [b"data"]])
def test_invalid_data(run, bad):
    async def main():
        read, write = pipe_ends()
        writer, written = await writing(write)
        with pytest.raises(AssertionError) as caught:
            writer.write(bad)
        assert str(caught.value).splitlines()[0] == repr(bad)
        writer.close()
        await written.done
        read.close()

    run(main())


def test_changing_a_buffer_after_writing_it(run):
    async def main():
        read, write = pipe_ends()
        writer, written = await writing(write)
        data = bytearray(BIG)
        writer.write(data)
        data[:] = bytes(len(data))
        writer.write(memoryview(data))
        reader, received = await reading(read)
        writer.close()
        await received.done
        assert received.received == BIG + bytes(len(BIG))

    run(main())


def test_low_water_mark(run):
    """The writer is resumed when everything is written, regardless of the low-water mark."""

    async def main():
        class Watching(Recorder):
            def pause_writing(self):
                sizes.append(self.transport.get_write_buffer_size())
                super().pause_writing()

            def resume_writing(self):
                sizes.append(self.transport.get_write_buffer_size())
                super().resume_writing()

        sizes = []
        read, write = pipe_ends()
        writer, written = await writing(write, Watching)
        assert writer.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        writer.set_write_buffer_limits(high=1000)
        assert writer.get_write_buffer_limits() == (250, 1000)
        with pytest.raises(ValueError, match=r"high \(1\) must be >= low \(2\) must be >= 0"):
            writer.set_write_buffer_limits(high=1, low=2)
        writer.set_write_buffer_limits(high=100_000, low=90_000)
        writer.write(bytes(300_000))
        await asyncio.to_thread(read_exactly, read.fileno(), 230_000)
        await settled()
        assert written.calls == ["made", "pause"]
        await asyncio.to_thread(read_exactly, read.fileno(), 70_000)
        await written.until(lambda: written.calls[-1] == "resume")
        assert sizes[0] > 100_000
        assert sizes[1] == 0
        assert len(sizes) == 2
        writer.close()
        await written.done
        read.close()

    run(main())


def test_close_flushes_and_abort_does_not(run):
    async def main():
        for how, expected in [("close", len(BIG)), ("write_eof", len(BIG)), ("abort", 0)]:
            read, write = pipe_ends()
            writer, written = await writing(write)
            writer.write(BIG)
            left = writer.get_write_buffer_size()
            getattr(writer, how)()
            writer.write(b"too late")
            assert writer.is_closing()
            data = await asyncio.to_thread(read.read, len(BIG)) if how == "abort" else b""
            if how != "abort":
                reader, received = await reading(read)
                await received.done
                data = received.received
            assert await written.done is None
            assert len(data) == (expected or len(BIG) - left)
            assert data == BIG[: len(data)]
            read.close()
            writer.close()
            writer.write_eof()

    run(main())


class Actor(Recorder):
    """Ends its transport inside one callback."""

    where = how = ""

    def note(self, call):
        super().note(call)
        if call == self.where:
            getattr(self.transport, self.how)()

    def data_received(self, data):
        super().data_received(data)
        self.note("data")


@pytest.mark.parametrize("how", ["close", "abort", "write_eof"])
@pytest.mark.parametrize("where", ["made", "pause", "resume", "lost"])
@pytest.mark.only("ferroloop")  # asyncio calls connection_lost() twice, or fails in its own code
def test_ending_the_writer_inside_a_callback(run, where, how):
    async def main():
        read, write = pipe_ends()
        written = type("Acting", (Actor,), {"where": where, "how": how})()
        # In debug mode the log line comes too late for a pipe that is already closed.
        with contextlib.suppress(ValueError):
            await writing(write, lambda: written)
        writer = written.transport
        writer.write(BIG)
        reader, received = await reading(read)
        writer.close()
        async with asyncio.timeout(10):
            assert await written.done is None
            await received.done
        await settled()
        assert written.calls.count("lost") == 1
        assert written.calls[-1] == "lost"
        if (how != "abort" and where != "made") or where in ("resume", "lost"):
            assert received.received == BIG
        writer.close()
        writer.abort()
        await settled()
        assert written.calls.count("lost") == 1

    run(main())


CLOSED_WHEN_MADE = pytest.param(
    "made",
    marks=pytest.mark.skipif(
        not CAN_ACT_WHEN_MADE, reason="pipes of early 3.11 read after connection_made() closed them"
    ),
)


@pytest.mark.parametrize("where", [CLOSED_WHEN_MADE, "data", "eof", "lost"])
def test_closing_the_reader_inside_a_callback(run, where):
    async def main():
        read, write = pipe_ends()
        os.write(write.fileno(), b"data")
        acting = type("Acting", (Actor,), {"where": where, "how": "close"})
        received = acting()
        # In debug mode the log line comes too late for a pipe that is already closed.
        with contextlib.suppress(ValueError):
            await reading(read, lambda: received)
        await settled()
        write.close()
        async with asyncio.timeout(10):
            assert await received.done is None
        await settled()
        assert received.calls.count("lost") == 1
        assert received.calls[-1] == "lost"
        assert ("data" in received.calls) == (where != "made")
        received.transport.close()

    run(main())


def test_debug_mode_logging(run, flavour):
    async def main():
        read, write = pipe_ends()
        reader, received = await reading(read)
        fd = write.fileno()
        writer, written = await writing(write)
        lines.clear()
        reader.pause_reading()
        reader.resume_reading()
        os.write(fd, b"data")
        read.fileno()
        writer.close()
        await written.done
        await received.done
        read2, write2 = pipe_ends()
        writer, written = await writing(write2)
        read2.close()
        await written.done

    lines = []
    logger, handler = logging.getLogger("asyncio"), logging.Handler(logging.DEBUG)
    handler.emit = lambda record: lines.append((record.levelname, record.getMessage()))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    run(main())
    logger.removeHandler(handler)
    seen = [
        f"{level}{line.partition('>')[2]}"
        for level, line in lines
        if "PipeTransport" in line and "connected" not in line
    ]
    if flavour.debug:
        assert seen == [
            "DEBUG pauses reading",
            "DEBUG resumes reading",
            "INFO was closed by peer",
            "INFO was closed by peer",
        ]
    else:
        assert seen == []


def test_context_of_the_protocols_calls(run):
    """The calls run in the context in which the transport was created."""
    variable = contextvars.ContextVar("variable", default="unset")

    async def main():
        class Watching(Recorder):
            def note(self, call):
                super().note(call)
                seen.append((call, variable.get()))

            def data_received(self, data):
                super().data_received(data)
                seen.append(("data", variable.get()))

        seen = []
        read, write = pipe_ends()
        variable.set("making")
        reader, received = await reading(read, Watching)
        variable.set("later")
        await asyncio.to_thread(os.write, write.fileno(), b"data")
        await received.until(lambda: received.received)
        write.close()
        await received.done
        assert seen == [
            ("made", "making"),
            ("data", "making"),
            ("eof", "making"),
            ("lost", "making"),
        ]

    run(main())


def test_reading_from_a_thread(run):
    """A blocking writer in a thread."""

    async def main():
        read, write = pipe_ends()
        reader, received = await reading(read)

        def produce():
            with write:
                for _ in range(16):
                    view = memoryview(BIG)
                    while view:
                        view = view[write.write(view) :]

        thread = threading.Thread(target=produce)
        thread.start()
        assert await received.done is None
        assert received.received == BIG * 16
        await asyncio.to_thread(thread.join)

    run(main())


@pytest.mark.only("ferroloop")  # asyncio does not resize pipes
@pytest.mark.parametrize("chosen", [None, 16 * 1024])
def test_a_busy_pipe_is_enlarged(run, chosen):
    """Unless the program has set its size."""

    async def main():
        read, write = pipe_ends()
        if chosen:
            fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, chosen)
        before = fcntl.fcntl(read, fcntl.F_GETPIPE_SZ)
        reader, received = await reading(read)
        writer, written = await writing(write)
        writer.write(b"little")
        await received.until(lambda: received.received)
        assert fcntl.fcntl(read, fcntl.F_GETPIPE_SZ) == before
        for _ in range(4):
            writer.write(BIG)
        await received.until(lambda: len(received.received) == 6 + 4 * len(BIG))
        after = fcntl.fcntl(read, fcntl.F_GETPIPE_SZ)
        # Not the default size if the user's pipe quota was already used up.
        assert after == (256 * 1024 if before == 64 * 1024 else before)
        writer.close()
        await received.done

    run(main())
