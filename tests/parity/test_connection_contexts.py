"""Which context the callbacks of a connection run in.

Before 3.15 each one runs in a copy of the context that scheduled it. From 3.15 on a stream has one
context for all of them: for a client, a copy of its creator's; for a server's connection, a copy of
the context in which the server was created. Datagrams and pipes are unchanged.
"""

import asyncio
import contextvars
import os
import socket
import sys

import pytest

from ..support.certificates import HOST, client_context, server_context

WHERE = contextvars.ContextVar("WHERE", default="nowhere")
HAS_OWN = sys.version_info >= (3, 15)
own_context = pytest.mark.skipif(not HAS_OWN, reason="a connection has no context before 3.15")


class Noting(asyncio.Protocol):
    """Records the variable's value in each callback, and then changes it there."""

    def __init__(self, seen):
        self.seen = seen
        self.lost = asyncio.get_running_loop().create_future()
        self.arrived = asyncio.Event()
        self.note("init")

    def note(self, callback):
        self.seen.append((callback, WHERE.get()))
        WHERE.set(f"after {callback}")

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def data_received(self, data):
        self.note(data.decode())
        self.arrived.set()

    def eof_received(self):
        self.note("eof")

    def pause_writing(self):
        self.note("pause")

    def resume_writing(self):
        self.note("resume")

    def connection_lost(self, exc):
        self.note("lost")
        self.lost.set_result(exc)

    async def arrival(self):
        await self.arrived.wait()
        self.arrived.clear()


class Buffered(Noting, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        self.note("buffer")
        return bytearray(10)

    def buffer_updated(self, nbytes):
        self.note("updated")
        self.arrived.set()


async def in_context(where, function, *args, **kwargs):
    """Await a function's coroutine with WHERE set only for it."""

    async def call():
        WHERE.set(where)
        return await function(*args, **kwargs)

    return await asyncio.create_task(call())


async def exchange(protocol_class, **options):
    """What a server's protocol and a client's see. Each receives three messages, the last one
    after another task has paused and resumed it."""
    loop = asyncio.get_running_loop()
    made = []
    seen = {"server": [], "client": []}
    tls = options.pop("tls", False)

    def serve():
        made.append(protocol_class(seen["server"]))
        return made[0]

    WHERE.set("server made")
    server = await loop.create_server(
        serve, "127.0.0.1", 0, start_serving=False, ssl=server_context() if tls else None
    )
    WHERE.set("server started")
    await server.start_serving()
    address = server.sockets[0].getsockname()
    if tls:
        options |= {"ssl": client_context(), "server_hostname": HOST}
    _, client = await in_context(
        "connecting",
        loop.create_connection,
        lambda: protocol_class(seen["client"]),
        *address,
        **options,
    )
    while not made or not hasattr(made[0], "transport"):
        await asyncio.sleep(0.001)
    ends = (client, made[0])
    for message in (b"one", b"two", b"three"):
        for one, other in (ends, ends[::-1]):
            if message == b"three":
                other.transport.pause_reading()
                WHERE.set("resumed")
                other.transport.resume_reading()
            one.transport.write(message)
            await other.arrival()
    client.transport.close()
    await asyncio.gather(client.lost, made[0].lost)
    server.close()
    return seen


def shared_context_values(first, callbacks, **exceptions):
    """What callbacks see that share one context and each change its value."""
    before, seen = first, []
    for callback in callbacks:
        seen.append((callback, exceptions.get(callback, before)))
        before = f"after {callback}"
    return seen


def test_streams(run):
    async def main():
        seen = await exchange(Noting)
        callbacks = ["made", "one", "two", "three", "lost"]
        if HAS_OWN:
            # The client's factory runs in its creator's context, which was copied before.
            assert seen["client"] == [
                ("init", "connecting"),
                *shared_context_values("connecting", callbacks),
            ]
            callbacks.insert(4, "eof")
            assert seen["server"] == shared_context_values("server made", ["init", *callbacks])
            return
        assert seen["client"] == [
            ("init", "connecting"),
            ("made", "after init"),
            ("one", "after init"),
            ("two", "after one"),
            ("three", "resumed"),
            ("lost", "resumed"),
        ]
        assert seen["server"] == [
            ("init", "server started"),
            ("made", "after init"),
            ("one", "after init"),
            ("two", "after one"),
            ("three", "resumed"),
            ("eof", "after three"),
            ("lost", "after eof"),
        ]

    run(main())


def test_buffered_protocols(run):
    async def main():
        seen = await exchange(Buffered)
        callbacks = ["made", *["buffer", "updated"] * 3, "lost"]
        first = "connecting" if HAS_OWN else "after init"
        expected = [("init", "connecting"), *shared_context_values(first, callbacks)]
        if not HAS_OWN:
            expected[2] = ("buffer", "after init")
            expected[6] = ("buffer", "resumed")
            expected[8] = ("lost", "resumed")
        assert seen["client"] == expected

    run(main())


@own_context
def test_tls(run):
    async def main():
        seen = await exchange(Noting, tls=True)
        # As in asyncio, the first read after another task resumes it runs in that task's context.
        for side, first in (("client", "connecting"), ("server", "server made")):
            assert dict(seen[side])["made"] == ("after init" if side == "server" else first)
            assert dict(seen[side])["two"] == "after one"
            assert dict(seen[side])["lost"].startswith("after ")

    run(main())


@own_context
def test_a_protocol_that_pauses_does_so_in_the_context_of_the_writer(run):
    """`pause_writing()` is called from `write()`, here in a callback of the same connection."""

    class Flooding(Noting):
        def data_received(self, data):
            super().data_received(data)
            while not any(callback == "pause" for callback, _ in self.seen):
                for _ in range(50):
                    self.transport.write(bytes(100_000))
                if not hasattr(self, "flooded"):
                    self.flooded = True
                    break

    async def main():
        seen = []
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            transport, protocol = await asyncio.get_running_loop().create_connection(
                lambda: Flooding(seen), sock=ours
            )
            theirs.send(b"flood")
            await protocol.arrival()
            await asyncio.sleep(0.01)
            transport.abort()
            await protocol.lost
        callbacks = [callback for callback, _ in seen]
        assert callbacks == ["init", "made", "flood", "pause", "lost"]
        assert seen[1:] == shared_context_values("nowhere", callbacks[1:])

    run(main())


def test_datagrams_and_pipes(run):
    class Datagrams(asyncio.DatagramProtocol):
        connection_made = Noting.connection_made
        note = Noting.note
        seen = None

        def datagram_received(self, data, address):
            self.note(data.decode())
            self.transport.close()

        def connection_lost(self, exc):
            self.note("lost")
            done.set_result(None)

    class Reader(Noting):
        def eof_received(self):
            pass

    async def main():
        nonlocal done
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        Datagrams.seen = []
        WHERE.set("here")
        transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
        WHERE.set("there")
        transport.sendto(b"one", transport.get_extra_info("sockname"))
        await done
        assert Datagrams.seen == [("made", "here"), ("one", "here"), ("lost", "after one")]
        reading, writing = os.pipe()
        WHERE.set("here")
        seen = []
        _, protocol = await loop.connect_read_pipe(lambda: Reader(seen), os.fdopen(reading, "rb"))
        WHERE.set("there")
        os.write(writing, b"one")
        await protocol.arrival()
        os.close(writing)
        await protocol.lost
        assert seen == [
            ("init", "here"),
            ("made", "after init"),
            ("one", "after init"),
            ("lost", "after one"),
        ]

    done = None
    run(main())


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls", "subclass"])
def test_handlers_of_a_server_do_not_see_each_other(run, tmp_path, kind):
    async def main():
        seen = []

        async def handle(reader, writer):
            seen.append(WHERE.get())
            WHERE.set("handled")
            writer.close()
            await writer.wait_closed()

        WHERE.set("server made")
        path = str(tmp_path / "socket")
        if kind == "unix":
            server = await asyncio.start_unix_server(handle, path)
        else:
            ssl = server_context() if kind == "tls" else None
            server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=ssl)
            port = server.sockets[0].getsockname()[1]
        WHERE.set("later")
        for _ in range(2):
            if kind == "unix":
                reader, writer = await asyncio.open_unix_connection(path)
            elif kind == "tls":
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=client_context(), server_hostname=HOST
                )
            elif kind == "subclass":
                reader, writer = await asyncio.open_connection(sock=connected(port))
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert seen == ["server made"] * 2

    def connected(port):
        class Own(socket.socket):
            def recv(self, *args):
                return super().recv(*args)

        sock = Own()
        sock.connect(("127.0.0.1", port))
        return sock

    run(main())


@own_context
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_serving_accepts_a_context(run, tls):
    """asyncio's own code passes it by position when it resumes accepting after an error."""

    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        context = contextvars.copy_context()
        context.run(WHERE.set, "given")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            ssl = server_context() if tls else None
            made = []

            def serve():
                made.append(Noting(seen))
                return made[0]

            loop._start_serving(serve, listener, ssl, None, 100, 5.0, 5.0, context)
            options = {"ssl": client_context(), "server_hostname": HOST} if tls else {}
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *listener.getsockname(), **options
            )
            transport.write(b"one")
            while not made:
                await asyncio.sleep(0.001)
            await made[0].arrival()
            transport.close()
            await made[0].lost
            loop._stop_serving(listener)
        assert seen == shared_context_values("given", ["init", "made", "one", "eof", "lost"])
        assert context[WHERE] == "given"

    run(main())


@own_context
def test_readers_and_writers_accept_a_context(run):
    async def main():
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(WHERE.set, "given")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for add, remove in (
                (loop._add_reader, loop._remove_reader),
                (loop._add_writer, loop._remove_writer),
            ):
                seen = loop.create_future()
                theirs.send(b"x")
                fd = ours.fileno()
                handle = add(
                    fd, lambda seen, remove, fd: (remove(fd), seen.set_result(WHERE.get())),
                    seen, remove, fd, context=context,
                )  # fmt: skip
                assert handle.get_context() is context
                assert await seen == "given"

    run(main())


def test_reports_of_failed_callbacks_are_made_in_their_context(run):
    """From 3.12 on the exception handler runs in the context of the failed callback."""

    class Failing(Noting):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise KeyError("made")

        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise KeyError("lost")

    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(
            lambda _, context: reported.append((context["exception"].args, WHERE.get()))
        )
        ours, theirs = socket.socketpair()
        with theirs:
            transport, protocol = await in_context(
                "connecting", loop.create_connection, lambda: Failing([]), sock=ours
            )
            theirs.send(b"one")
            await protocol.arrival()
            transport.close()
            await protocol.lost
            await asyncio.sleep(0)
        marks = ["after made", "after lost"]
        if sys.version_info < (3, 12):
            marks = ["nowhere"] * 2
        assert reported == [(("made",), marks[0]), (("lost",), marks[1])]

    run(main())
