"""TCP with transports and protocols, against plain blocking sockets."""

import asyncio
import contextvars
import errno
import gc
import re
import socket
import sys
import threading

import pytest

from ..support import peers
from ..support.protocols import BufferedRecorder, Recorder

BIG = bytes(range(256)) * 4096 * 32  # 32 MiB, more than any socket buffer


async def connected(address, protocol=Recorder):
    loop = asyncio.get_running_loop()
    return await loop.create_connection(protocol, *address[:2])


class Accepted(list):
    """Collects the protocols of a server's connections."""

    def __init__(self):
        self.came = asyncio.Event()

    async def first(self):
        """Wait for the first protocol's connection_made()."""
        async with asyncio.timeout(20):
            await self.came.wait()
            while getattr(self[0], "transport", None) is None:
                await asyncio.sleep(0)
        return self[0]


async def serving(protocol=Recorder, **options):
    """A server, and the list that collects its protocols."""
    protocols = Accepted()

    def make():
        protocols.append(protocol())
        protocols.came.set()
        return protocols[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", 0, **options)
    return server, server.sockets[0].getsockname(), protocols


async def finish(server):
    server.close()
    await server.wait_closed()


def client(function):
    """Run blocking client code in a thread."""
    return asyncio.to_thread(function)


# --- connecting -----------------------------------------------------------------


def test_echo(run):
    with peers.listening(peers.echo) as address:

        async def main():
            transport, protocol = await connected(address)
            assert protocol.transport is transport
            transport.write(b"hello ")
            transport.write(b"world")
            await protocol.until(lambda: len(protocol.received) == 11)
            transport.close()
            assert await protocol.done is None
            return bytes(protocol.received), protocol.calls

        assert run(main()) == (b"hello world", ["made", "data", "lost"])


def test_connection_made_comes_before_create_connection_returns(run):
    with peers.listening(peers.receive_all) as address:

        async def main():
            transport, protocol = await connected(address)
            assert protocol.calls == ["made"]
            transport.close()
            assert protocol.calls == ["made"]
            await protocol.done
            assert protocol.calls == ["made", "lost"]

        run(main())


def test_refused(run):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = unused.getsockname()

        async def main():
            with pytest.raises(ConnectionRefusedError) as caught:
                await connected(address)
            return caught.value.errno, str(caught.value)

        code, text = run(main())
    assert code == errno.ECONNREFUSED
    assert text == (f"[Errno {errno.ECONNREFUSED}] Connect call failed ('127.0.0.1', {address[1]})")


def test_given_socket(run):
    with peers.listening(peers.echo) as address:

        async def main():
            sock = socket.create_connection(address)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_connection(Recorder, sock=sock)
            transport.write(b"x")
            await protocol.until(lambda: protocol.received)
            transport.close()
            await protocol.done
            assert sock.fileno() == -1

        run(main())


def test_argument_errors(run):
    async def main():
        loop = asyncio.get_running_loop()
        for arguments, text in (
            ({}, "host and port was not specified and no sock specified"),
            (
                {"host": "h", "port": 1, "sock": object()},
                "host/port and sock can not be specified at the same time",
            ),
            (
                {"host": "h", "port": 1, "server_hostname": "h"},
                "server_hostname is only meaningful with ssl",
            ),
            (
                {"host": "h", "port": 1, "ssl_handshake_timeout": 1},
                "ssl_handshake_timeout is only meaningful with ssl",
            ),
        ):
            with pytest.raises(ValueError) as caught:
                await loop.create_connection(Recorder, **arguments)
            assert str(caught.value) == text
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.create_connection(Recorder, sock=datagram)

    run(main())


def test_local_address(run):
    with peers.listening(peers.receive_all) as address:

        async def main():
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_connection(
                Recorder, *address, local_addr=("127.0.0.1", 0)
            )
            assert transport.get_extra_info("sockname")[0] == "127.0.0.1"
            transport.close()
            await protocol.done

        run(main())


def test_cancelled_while_connecting(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            # Fill the queue, so that the next connect has to wait.
            waiting = [socket.socket() for _ in range(3)]
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(server.getsockname())
            task = loop.create_task(connected(server.getsockname()))
            await asyncio.sleep(0.01)
            task.cancel()
            if not task.done():
                with pytest.raises(asyncio.CancelledError):
                    await task
            for sock in waiting:
                sock.close()

    run(main())


# --- extra information ------------------------------------------------------------


def test_extra_info(run):
    with peers.listening(peers.receive_all) as address:

        async def main():
            transport, protocol = await connected(address)
            assert transport.get_extra_info("peername") == address
            sock = transport.get_extra_info("socket")
            assert type(sock) is asyncio.trsock.TransportSocket
            assert sock.getpeername() == address
            assert sock.fileno() >= 0
            assert sock.family == socket.AF_INET
            assert transport.get_extra_info("sockname") == sock.getsockname()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert transport.get_extra_info("sslcontext") is None
            assert transport.get_extra_info("nothing", "default") == "default"
            transport.close()
            await protocol.done
            assert transport.get_extra_info("peername") == address

        run(main())


def test_class_and_repr(run):
    with peers.listening(peers.receive_all) as address:

        async def main():
            transport, protocol = await connected(address)
            assert isinstance(transport, asyncio.Transport)
            number = transport.get_extra_info("socket").fileno()
            assert re.fullmatch(
                rf"<\S+ fd={number} read=(polling|idle) write=<idle, bufsize=0>>", repr(transport)
            )
            transport.close()
            assert " closing " in repr(transport) + " "
            await protocol.done
            assert re.fullmatch(rf"<\S+ closed fd={number}>", repr(transport))

        run(main())


# --- writing ------------------------------------------------------------------------


def reads_when_told(go, found):
    """A peer that reads only when told; otherwise the kernel might accept a large write whole."""

    def serve(connection):
        go.wait(peers.SECONDS)
        try:
            found.append(peers.receive_all(connection))
        except ConnectionResetError:
            found.append(b"reset")

    return serve


def test_large_write(run):
    go, found = threading.Event(), []
    with peers.listening(reads_when_told(go, found)) as address:

        async def main():
            transport, protocol = await connected(address)
            transport.write(BIG)
            assert transport.get_write_buffer_size() > 0
            transport.close()
            go.set()
            await protocol.done
            assert protocol.calls[:2] == ["made", "pause"]
            assert protocol.calls[-1] == "lost"

        run(main())
    assert found == [BIG]


def test_order_of_many_writes(run):
    found = []
    with peers.listening(lambda c: found.append(peers.receive_all(c))) as address:

        async def main():
            transport, protocol = await connected(address)
            for i in range(3000):
                transport.write(b"%d," % i)
                if i % 100 == 0:
                    await asyncio.sleep(0)
            transport.close()
            await protocol.done

        run(main())
    assert found == [b"".join(b"%d," % i for i in range(3000))]


@pytest.mark.parametrize(
    "wrap", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b)).cast("H")]
)
def test_writable_types(run, wrap):
    found = []
    data = b"0123456789" * 2000
    with peers.listening(lambda c: found.append(peers.receive_all(c))) as address:

        async def main():
            transport, protocol = await connected(address)
            transport.write(wrap(data))
            transport.close()
            await protocol.done

        run(main())
    assert found == [data]


def test_empty_writes(run):
    found = []
    with peers.listening(lambda c: found.append(peers.receive_all(c))) as address:

        async def main():
            transport, protocol = await connected(address)
            transport.write(b"")
            transport.writelines([])
            transport.writelines([b"", b"a", b"", b"b"])
            transport.close()
            await protocol.done

        run(main())
    assert found == [b"ab"]


def test_writelines(run):
    found = []
    parts = [b"%d;" % i * 50 for i in range(2000)]
    with peers.listening(lambda c: found.append(peers.receive_all(c))) as address:

        async def main():
            transport, protocol = await connected(address)
            transport.writelines(parts)
            transport.writelines(iter([b"x", bytearray(b"y"), memoryview(b"z")]))
            transport.close()
            await protocol.done

        run(main())
    assert found == [b"".join(parts) + b"xyz"]


@pytest.mark.parametrize("bad", ["text", None, 42, [b"list"]])
def test_invalid_data(run, bad):
    with peers.listening(peers.receive_all) as address:

        async def main():
            transport, protocol = await connected(address)
            with pytest.raises(TypeError) as caught:
                transport.write(bad)
            kinds = "a bytes-like object"
            if sys.version_info >= (3, 14):
                kinds = "a bytes, bytearray, or memoryview object"
            expected = f"data argument must be {kinds}, not {type(bad).__name__!r}"
            assert str(caught.value) == expected
            transport.close()
            await protocol.done

        run(main())


def test_writing_after_close_and_eof(run):
    with peers.listening(peers.receive_all) as address:

        async def main():
            transport, protocol = await connected(address)
            transport.write_eof()
            with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
                transport.write(b"x")
            transport.write_eof()
            transport.close()
            await protocol.done
            transport.close()
            transport.abort()

        run(main())


# --- flow control ----------------------------------------------------------------------


def test_pause_and_resume_writing(run):
    go, found = threading.Event(), []
    with peers.listening(reads_when_told(go, found)) as address:

        async def main():
            transport, protocol = await connected(address)
            assert transport.get_write_buffer_limits() == (16384, 65536)
            transport.write(BIG)
            assert protocol.calls == ["made", "pause"]
            assert transport.get_write_buffer_size() > 65536
            go.set()
            await protocol.until(lambda: "resume" in protocol.calls)
            assert transport.get_write_buffer_size() <= 16384
            transport.close()
            await protocol.done

        run(main())
    assert found == [BIG]


def test_write_buffer_limits(run):
    with peers.listening(peers.receive_all) as address:

        async def main():
            transport, protocol = await connected(address)
            for arguments, expected in (
                ({"high": 1000}, (250, 1000)),
                ({"low": 10}, (10, 40)),
                ({"high": 0}, (0, 0)),
                ({"high": 100, "low": 100}, (100, 100)),
                ({}, (16384, 65536)),
            ):
                transport.set_write_buffer_limits(**arguments)
                assert transport.get_write_buffer_limits() == expected
            for bad in ({"high": -1}, {"high": 1, "low": 2}, {"low": -1, "high": 1}):
                with pytest.raises(ValueError, match="must be >= low"):
                    transport.set_write_buffer_limits(**bad)
            transport.close()
            await protocol.done

        run(main())


def test_pause_and_resume_reading(run):
    async def main():
        server, address, protocols = await serving()
        with peers.connect(address) as sock:
            protocol = await protocols.first()
            transport = protocol.transport
            assert transport.is_reading()
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            sock.sendall(b"data")
            await asyncio.sleep(0.02)
            assert protocol.received == b""
            transport.resume_reading()
            transport.resume_reading()
            await protocol.until(lambda: protocol.received)
            assert protocol.received == b"data"
            transport.close()
            await protocol.done
            assert not transport.is_reading()
            transport.pause_reading()
            transport.resume_reading()
        await finish(server)

    run(main())


def test_pausing_inside_data_received(run):
    async def main():
        class PausingEachTime(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.pause_reading()
                asyncio.get_running_loop().call_soon(self.transport.resume_reading)

        server, address, protocols = await serving(PausingEachTime)
        data = b"x" * 500_000

        def send():
            with peers.connect(address) as sock:
                sock.sendall(data)

        await client(send)
        await (await protocols.first()).until(lambda: "lost" in protocols[0].calls)
        await finish(server)
        return protocols[0].received == data

    assert run(main())


# --- ending -----------------------------------------------------------------------------


def test_peer_closes(run):
    async def main():
        server, address, protocols = await serving()

        def talk():
            with peers.connect(address) as sock:
                sock.sendall(b"bye")

        await client(talk)
        await (await protocols.first()).until(lambda: "lost" in protocols[0].calls)
        await finish(server)
        return protocols[0].calls, await protocols[0].done

    assert run(main()) == (["made", "data", "eof", "lost"], None)


def test_half_close(run):
    async def main():
        class KeepsOpenOnEof(Recorder):
            def eof_received(self):
                super().eof_received()
                asyncio.get_running_loop().call_later(0.005, self.answer)
                return True

            def answer(self):
                self.transport.write(b"answer after eof")
                self.transport.close()

        server, address, _ = await serving(KeepsOpenOnEof)

        def talk():
            with peers.connect(address) as sock:
                sock.sendall(b"question")
                sock.shutdown(socket.SHUT_WR)
                return peers.receive_all(sock)

        answer = await client(talk)
        await finish(server)
        return answer

    assert run(main()) == b"answer after eof"


def test_write_eof(run):
    def serve(connection):
        data = peers.receive_all(connection)
        connection.sendall(data[::-1])

    with peers.listening(serve) as address:

        async def main():
            transport, protocol = await connected(address)
            assert transport.can_write_eof()
            transport.write(b"abc")
            transport.write_eof()
            await protocol.done
            return bytes(protocol.received), protocol.calls

        assert run(main()) == (b"cba", ["made", "data", "eof", "lost"])


def test_write_eof_after_a_large_write(run):
    found = []
    with peers.listening(lambda c: found.append(peers.receive_all(c))) as address:

        async def main():
            transport, protocol = await connected(address)
            transport.write(BIG)
            transport.write_eof()
            await protocol.done

        run(main())
    assert found == [BIG]


def test_reset_by_peer(run):
    async def main():
        server, address, protocols = await serving()

        def talk():
            sock = peers.connect(address)
            sock.sendall(b"x")
            peers.reset(sock)

        await client(talk)
        await (await protocols.first()).until(lambda: "lost" in protocols[0].calls)
        await finish(server)
        error = await protocols[0].done
        return type(error), protocols[0].calls[0], protocols[0].calls[-1]

    assert run(main()) == (ConnectionResetError, "made", "lost")


def test_writing_to_a_closed_peer(run):
    async def main():
        server, address, protocols = await serving()
        sock = peers.connect(address)
        await protocols.first()
        protocols[0].transport.pause_reading()
        peers.reset(sock)
        await asyncio.sleep(0.01)
        for _ in range(3):
            protocols[0].transport.write(b"x" * 1000)
        error = await asyncio.wait_for((await protocols.first()).done, 10)
        await finish(server)
        return isinstance(error, ConnectionError)

    assert run(main())


def test_repeated_writes_to_a_lost_connection_warn(run, log):
    async def main():
        server, address, protocols = await serving()
        sock = peers.connect(address)
        await protocols.first()
        transport = protocols[0].transport
        transport.pause_reading()
        peers.reset(sock)
        await asyncio.sleep(0.01)
        for _ in range(10):
            transport.write(b"x")
        await finish(server)

    run(main())
    assert set(log.messages()) == {"socket.send() raised exception."}


def test_abort(run):
    go, found = threading.Event(), []
    with peers.listening(reads_when_told(go, found)) as address:

        async def main():
            transport, protocol = await connected(address)
            transport.write(BIG)
            transport.abort()
            assert transport.is_closing()
            assert protocol.calls == ["made", "pause"]
            assert await protocol.done is None
            assert transport.get_write_buffer_size() == 0
            go.set()

        run(main())
    assert len(found[0]) < len(BIG)


def test_close_inside_connection_made(run):
    async def main():
        class ClosesWhenMade(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.write(b"no")
                transport.close()

        server, address, protocols = await serving(ClosesWhenMade)

        def talk():
            with peers.connect(address) as sock:
                return peers.receive_all(sock)

        answer = await client(talk)
        await protocols[0].done
        await finish(server)
        return answer, protocols[0].calls

    assert run(main()) == (b"no", ["made", "lost"])


def test_no_data_after_close(run):
    async def main():
        class Closing(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.close()

        server, address, protocols = await serving(Closing)

        def talk():
            with peers.connect(address) as sock:
                sock.sendall(b"a" * 10)
                try:
                    while sock.send(b"b" * 10):
                        pass
                except ConnectionError:
                    pass

        await client(talk)
        await (await protocols.first()).done
        await finish(server)
        return protocols[0].calls

    assert run(main()) == ["made", "data", "lost"]


@pytest.mark.parametrize("method", ["connection_made", "data_received", "eof_received"])
def test_exception_in_a_protocol_method(run, method):
    async def main():
        def fail(self, *args):
            if method == "connection_made":
                self.transport = args[0]
                self.calls.append("made")
            raise ZeroDivisionError(method)

        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        server, address, protocols = await serving(type("Bad", (Recorder,), {method: fail}))

        def talk():
            with peers.connect(address) as sock:
                sock.sendall(b"x")
                sock.shutdown(socket.SHUT_WR)
                if method != "connection_made":
                    try:
                        peers.receive_all(sock)
                    except ConnectionResetError:
                        pass

        await client(talk)
        async with asyncio.timeout(10):
            while not reported:
                await asyncio.sleep(0.001)
        if method == "connection_made":
            protocols[0].transport.abort()
        lost = await asyncio.wait_for((await protocols.first()).done, 10)
        await finish(server)
        loop.set_exception_handler(None)
        context = reported[0]
        return type(context["exception"]), context["message"].partition("(")[0], type(lost)

    kind, message, lost = run(main())
    assert kind is ZeroDivisionError
    if method == "connection_made":
        assert message.startswith("Exception in callback")
    else:
        expected = {
            "data_received": "Fatal error: protocol.data_received",
            "eof_received": "Fatal error: protocol.eof_received",
        }
        assert message == expected[method]
        assert lost is ZeroDivisionError


def test_exception_in_connection_lost(run):
    async def main():
        class Bad(Recorder):
            def connection_lost(self, error):
                super().connection_lost(error)
                raise ZeroDivisionError

        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context["message"]))
        server, address, protocols = await serving(Bad)
        with peers.connect(address):
            pass
        while not reported:
            await asyncio.sleep(0.001)
        await finish(server)
        loop.set_exception_handler(None)
        return reported[0]

    assert run(main()).startswith("Exception in callback ")


def test_dropped_transport_warns(run):
    with peers.listening(peers.receive_all) as address:

        async def main():
            transport, protocol = await connected(address)
            text = repr(transport)
            loop = asyncio.get_running_loop()
            with pytest.warns(ResourceWarning) as caught:
                # As if the loop had dropped it.
                transport.pause_reading()
                protocol.transport = None
                del transport
                gc.collect()
            texts = [str(warning.message) for warning in caught]
            assert any(text.startswith("unclosed transport <") for text in texts)
            return text, loop

        run(main())


# --- protocols ------------------------------------------------------------------------------


def test_set_protocol(run):
    async def main():
        server, address, protocols = await serving()
        with peers.connect(address) as sock:
            sock.sendall(b"first")
            old, new = await protocols.first(), Recorder()
            await old.until(lambda: old.received)
            transport = old.transport
            assert transport.get_protocol() is old
            new.calls.append("taken over")
            transport.set_protocol(new)
            assert transport.get_protocol() is new
            sock.sendall(b"second")
            await new.until(lambda: new.received)
            sock.close()
            await new.done
        await finish(server)
        return bytes(old.received), bytes(new.received), new.calls, old.calls

    assert run(main()) == (
        b"first",
        b"second",
        ["taken over", "data", "eof", "lost"],
        ["made", "data"],
    )


def test_set_protocol_switches_kinds(run):
    async def main():
        server, address, protocols = await serving()
        with peers.connect(address) as sock:
            await protocols.first()
            transport = protocols[0].transport
            buffered = BufferedRecorder()
            transport.set_protocol(buffered)
            sock.sendall(b"into the buffer")
            await buffered.until(lambda: buffered.received)
            plain = Recorder()
            plain.calls.append("-")
            transport.set_protocol(plain)
            sock.sendall(b"as bytes")
            await plain.until(lambda: plain.received)
            transport.close()
            await plain.done
        await finish(server)
        return bytes(buffered.received), bytes(plain.received)

    assert run(main()) == (b"into the buffer", b"as bytes")


def test_buffered_protocol(run):
    async def main():
        server, address, protocols = await serving(lambda: BufferedRecorder(1000))
        data = bytes(range(256)) * 100

        def talk():
            with peers.connect(address) as sock:
                sock.sendall(data)

        await client(talk)
        await (await protocols.first()).done
        await finish(server)
        assert max(protocols[0].updates) <= 1000
        assert all(isinstance(hint, int) for hint in protocols[0].hints)
        assert protocols[0].eof.done()
        return protocols[0].received == data

    assert run(main())


@pytest.mark.parametrize(
    ("buffer", "expected", "text"),
    [
        (
            lambda self, hint: bytearray(),
            "Fatal error: protocol.get_buffer() call failed.",
            "get_buffer() returned an empty buffer",
        ),
        (
            lambda self, hint: 1 / 0,
            "Fatal error: protocol.get_buffer() call failed.",
            "division by zero",
        ),
        (lambda self, hint: "text", "Fatal read error on socket transport", None),
    ],
    ids=["empty", "error", "text"],
)
def test_bad_buffers(run, buffer, expected, text):
    async def main():
        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        server, address, protocols = await serving(
            type("Bad", (BufferedRecorder,), {"get_buffer": buffer})
        )
        with peers.connect(address) as sock:
            sock.sendall(b"x")
            await asyncio.wait_for((await protocols.first()).done, 10)
        await finish(server)
        loop.set_exception_handler(None)
        return reported[0]["message"], str(reported[0]["exception"])

    message, error = run(main())
    assert message == expected
    assert text is None or error == text


def test_protocol_methods_run_in_the_context_of_the_connection(run):
    var = contextvars.ContextVar("var", default="default")

    async def main():
        class Contextual(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                seen.append(var.get())

            def data_received(self, data):
                super().data_received(data)
                seen.append(var.get())

        seen = []
        with peers.listening(peers.echo) as address:
            var.set("at connect")
            transport, protocol = await connected(address, Contextual)
            var.set("later")
            transport.write(b"x")
            await protocol.until(lambda: protocol.received)
            transport.close()
            await protocol.done
        return seen

    assert run(main()) == ["at connect", "at connect"]


# --- servers -----------------------------------------------------------------------------------


def test_server(run):
    async def main():
        server, address, protocols = await serving()
        assert isinstance(server, asyncio.AbstractServer)
        assert server.is_serving()
        assert server.get_loop() is asyncio.get_running_loop()
        assert type(server.sockets) is tuple
        assert type(server.sockets[0]) is asyncio.trsock.TransportSocket
        socks = [peers.connect(address) for _ in range(20)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%d" % number)
        await protocols.first()
        async with asyncio.timeout(20):
            while sum(len(protocol.received) > 0 for protocol in protocols) < 20:
                await asyncio.sleep(0.001)
        found = {bytes(protocol.received) for protocol in protocols}
        for sock in socks:
            sock.close()
        for protocol in protocols:
            await protocol.done
        server.close()
        assert server.sockets == ()
        assert not server.is_serving()
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            peers.connect(address)
        return found == {b"%d" % number for number in range(20)}

    assert run(main())


def test_server_not_started_immediately(run):
    async def main():
        server, address, _ = await serving(start_serving=False)
        assert not server.is_serving()
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        peers.connect(address).close()
        await asyncio.sleep(0.01)
        await finish(server)

    run(main())


def test_serve_forever(run):
    async def main():
        server, address, _ = await serving()
        task = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="is already being awaited on serve_forever"):
            await server.serve_forever()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()
        await server.wait_closed()

    run(main())


def test_server_as_a_context_manager(run):
    async def main():
        server, address, _ = await serving()
        async with server as same:
            assert same is server
            peers.connect(address).close()
            await asyncio.sleep(0.01)
        assert not server.is_serving()
        assert re.fullmatch(r"<Server sockets=\(\)>", repr(server))

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_closing_the_clients(run, method):
    async def main():
        server, address, protocols = await serving()
        with peers.connect(address) as sock:
            await protocols.first()
            server.close()
            getattr(server, method)()
            await protocols[0].done
            await server.wait_closed()
            try:
                return sock.recv(10)
            except ConnectionResetError:
                return b""

    assert run(main()) == b""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="waits since 3.12")
def test_wait_closed_waits_for_the_connections(run):
    async def main():
        server, address, protocols = await serving()
        with peers.connect(address):
            await protocols.first()
            server.close()
            waiter = asyncio.create_task(server.wait_closed())
            await asyncio.sleep(0.01)
            if sys.version_info >= (3, 12, 1):
                assert not waiter.done()
            protocols[0].transport.close()
            await waiter

    run(main())


def test_address_in_use(run):
    async def main():
        server, address, _ = await serving()
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError) as caught:
            await loop.create_server(Recorder, *address)
        assert caught.value.errno == errno.EADDRINUSE
        assert "error while attempting to bind on address" in str(caught.value)
        await finish(server)

    run(main())


def test_reuse_port(run):
    async def main():
        loop = asyncio.get_running_loop()
        one = await loop.create_server(Recorder, "127.0.0.1", 0, reuse_port=True)
        address = one.sockets[0].getsockname()
        two = await loop.create_server(Recorder, *address, reuse_port=True)
        await finish(one)
        await finish(two)

    run(main())


def test_server_on_a_given_socket(run):
    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.create_server(("127.0.0.1", 0))
        server = await loop.create_server(Recorder, sock=sock)
        assert server.sockets[0].getsockname() == sock.getsockname()
        await finish(server)
        assert sock.fileno() == -1

    run(main())


def test_server_on_several_hosts(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, ["127.0.0.1", "127.0.0.2"], 0)
        assert sorted(s.getsockname()[0] for s in server.sockets) == ["127.0.0.1", "127.0.0.2"]
        for sock in server.sockets:
            peers.connect(sock.getsockname()).close()
        await asyncio.sleep(0.01)
        await finish(server)

    run(main())


def test_server_argument_errors(run):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match="Neither host/port nor sock were specified"):
            await loop.create_server(Recorder)
        with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
            await loop.create_server(Recorder, "127.0.0.1", 0, ssl=True)
        with pytest.raises(ValueError, match="host/port and sock can not be specified"):
            await loop.create_server(Recorder, "127.0.0.1", 0, sock=object())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.create_server(Recorder, sock=datagram)

    run(main())


def test_loop_closed_with_open_connections(flavour, log):
    """asyncio warns about remaining transports; nothing crashes and no descriptor stays open."""
    loop = flavour.new_loop()

    async def main():
        server, address, protocols = await serving()
        sock = peers.connect(address)
        await asyncio.sleep(0.01)
        return server, sock, protocols

    server, sock, protocols = loop.run_until_complete(main())
    with pytest.warns(ResourceWarning):
        server.close()
        loop.close()
        sock.close()
        protocols.clear()
        del server
        gc.collect()


def test_ipv6(run):
    async def main():
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(Recorder, "::1", 0)
        except OSError:
            pytest.skip("no IPv6 here")
        address = server.sockets[0].getsockname()
        transport, protocol = await loop.create_connection(Recorder, "::1", address[1])
        assert transport.get_extra_info("peername") == address
        transport.close()
        await protocol.done
        await finish(server)

    run(main())


def test_many_connections_both_ways(run):
    async def main():
        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(data)

        server, address, _ = await serving(Echo)

        async def talk(number):
            transport, protocol = await connected(address)
            message = b"%05d" % number * 400
            for _ in range(5):
                size = len(protocol.received) + len(message)
                transport.write(message)
                await protocol.until(lambda size=size: len(protocol.received) == size)
            transport.close()
            await protocol.done
            assert protocol.received == message * 5

        await asyncio.gather(*[talk(i) for i in range(60)])
        await finish(server)

    run(main())
