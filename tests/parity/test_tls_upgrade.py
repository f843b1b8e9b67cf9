"""start_tls(): on the loop and on streams, over TLS, over transports that are not the loop's."""

import asyncio
import gc
import ssl
import weakref

import pytest

from ..support import peers
from ..support.certificates import HOST, client_context, server_context
from ..support.protocols import Recorder
from ..support.tls import Echo, Server, closed, nothing_left

BIG = bytes(range(256)) * 4000


class Upgrading(Echo):
    """Answers STARTTLS with OK, then speaks TLS."""

    def data_received(self, data):
        if data == b"STARTTLS":
            loop = asyncio.get_running_loop()
            self.task = loop.create_task(self.upgrade(loop, self.transport))
        else:
            super().data_received(data)

    async def upgrade(self, loop, transport):
        # In the same step: the client's reply is already TLS.
        transport.write(b"OK")
        self.transport = await loop.start_tls(transport, self, server_context(), server_side=True)
        self.transport.write(b"READY")


def plain_server(protocols):
    def make():
        protocols.append(Upgrading())
        return protocols[-1]

    return asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)


def test_start_tls(run):
    async def main():
        loop = asyncio.get_running_loop()
        protocols = []
        server = await plain_server(protocols)
        address = server.sockets[0].getsockname()
        plain, client = await loop.create_connection(Recorder, *address)
        plain.write(b"STARTTLS")
        await client.until(lambda: client.received == b"OK")
        client.received.clear()
        transport = await loop.start_tls(plain, client, client_context(), server_hostname=HOST)
        await client.until(lambda: client.received == b"READY")
        client.received.clear()
        assert transport.get_extra_info("peername") == address
        assert transport.get_extra_info("peercert")["subjectAltName"] == (("DNS", HOST),)
        transport.write(BIG)
        await client.until(lambda: len(client.received) == len(BIG))
        assert client.received == BIG
        # Not called again for the new transport.
        assert client.calls.count("made") == 1
        transport.close()
        assert await closed(client, protocols[0]) == [None, None]
        await protocols[0].task
        server.close()
        await server.wait_closed()

    run(main())


def test_arguments(run):
    async def main():
        loop = asyncio.get_running_loop()
        with peers.listening(peers.echo) as address:
            transport, client = await loop.create_connection(Recorder, *address)
            with pytest.raises(
                TypeError,
                match=r"^sslcontext is expected to be an instance of ssl.SSLContext, got None$",
            ):
                await loop.start_tls(transport, client, None)
            other = asyncio.Transport()
            with pytest.raises(TypeError, match=r"is not supported by start_tls\(\)$"):
                await loop.start_tls(other, client, client_context())
            transport.close()
            await client.done

    run(main())


def test_a_handshake_that_fails(run):
    async def main():
        loop = asyncio.get_running_loop()

        def answer(connection):
            connection.recv(100)
            connection.sendall(b"no TLS here")
            peers.receive_all(connection)

        with peers.listening(answer) as address:
            transport, client = await loop.create_connection(Recorder, *address)
            with pytest.raises(ssl.SSLError):
                await loop.start_tls(transport, client, client_context(), server_hostname=HOST)
            assert transport.is_closing()
            await nothing_left()
            # asyncio leaves the protocol of the upgrade to the caller.
            assert client.calls[0] == "made"

    run(main())


def test_a_handshake_that_takes_too_long(run):
    async def main():
        loop = asyncio.get_running_loop()

        with peers.listening(peers.receive_all) as address:
            transport, client = await loop.create_connection(Recorder, *address)
            with pytest.raises(ConnectionAbortedError):
                await loop.start_tls(
                    transport,
                    client,
                    client_context(),
                    server_hostname=HOST,
                    ssl_handshake_timeout=0.05,
                )
            assert transport.is_closing()
            await nothing_left()

    run(main())


def test_tls_in_tls(run):
    """The outer server answers STARTTLS inside TLS, like a proxy's CONNECT."""

    async def main():
        loop = asyncio.get_running_loop()
        async with Server(protocol=Upgrading) as server:
            outer, client = await server.connect()
            outer.write(b"STARTTLS")
            await client.until(lambda: client.received == b"OK")
            client.received.clear()
            inner = await loop.start_tls(outer, client, client_context(), server_hostname=HOST)
            await client.until(lambda: client.received == b"READY")
            client.received.clear()
            assert inner is not outer
            assert inner.get_extra_info("ssl_object") is not outer.get_extra_info("ssl_object")
            assert inner.get_extra_info("peername") == server.address
            inner.write(BIG)
            await client.until(lambda: len(client.received) == len(BIG))
            assert client.received == BIG
            inner.pause_reading()
            inner.write(b"more")
            await nothing_left()
            assert len(client.received) == len(BIG)
            inner.resume_reading()
            await client.until(lambda: client.received.endswith(b"more"))
            inner.close()
            await closed(client, server.protocols[0])
            await server.protocols[0].task

    run(main())


@pytest.mark.parametrize("over_tls", [False, True])
def test_streams(run, over_tls):
    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"OK\n")
        await writer.drain()
        await writer.start_tls(server_context())
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        served.set_result(None)

    async def main():
        nonlocal served
        served = asyncio.get_running_loop().create_future()
        outer = {"ssl": server_context()} if over_tls else {}
        server = await asyncio.start_server(serve, "127.0.0.1", 0, **outer)
        address = server.sockets[0].getsockname()
        outer = {"ssl": client_context(), "server_hostname": HOST} if over_tls else {}
        reader, writer = await asyncio.open_connection(*address, **outer)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"OK\n"
        await writer.start_tls(client_context(), server_hostname=HOST)
        assert writer.get_extra_info("cipher") is not None
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()
        await served
        server.close()
        await server.wait_closed()

    served = None
    run(main())


class PythonTransport(asyncio.Transport):
    """A transport in pure Python; two of them are joined by the loop's callbacks."""

    _start_tls_compatible = True

    def __init__(self, protocol):
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.protocol = protocol
        self.closing = False
        self.other = None
        self.paused = False
        self.waiting = b""

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    def write(self, data):
        self.loop.call_soon(self.other.arrive, bytes(data))

    def arrive(self, data):
        self.waiting += data
        if self.paused or self.closing:
            return
        data, self.waiting = self.waiting, b""
        while data:
            buffer = self.protocol.get_buffer(-1)
            count = min(len(buffer), len(data), 1000)
            buffer[:count] = data[:count]
            data = data[count:]
            self.protocol.buffer_updated(count)

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False
        self.loop.call_soon(self.arrive, b"")

    def is_closing(self):
        return self.closing

    def get_extra_info(self, name, default=None):
        return "wire" if name == "peername" else default

    def close(self):
        self._force_close(None)

    def abort(self):
        self._force_close(None)

    def _force_close(self, error):
        if not self.closing:
            self.closing = True
            self.loop.call_soon(self.protocol.connection_lost, error)
            self.loop.call_soon(self.other.close)


def test_over_a_transport_that_is_not_the_loops(run):
    async def main():
        loop = asyncio.get_running_loop()
        client, server = Recorder(), Echo()
        left, right = PythonTransport(client), PythonTransport(server)
        left.other, right.other = right, left
        for protocol, transport in ((client, left), (server, right)):
            protocol.connection_made(transport)
        transport, server.transport = await asyncio.gather(
            loop.start_tls(left, client, client_context(), server_hostname=HOST),
            loop.start_tls(right, server, server_context(), server_side=True),
        )
        assert transport.get_extra_info("peername") == "wire"
        transport.write(BIG)
        await client.until(lambda: len(client.received) == len(BIG))
        assert client.received == BIG
        transport.close()
        assert await closed(client, server) == [None, None]

    run(main())


# asyncio of these versions leaves a cycle of the waiter, its exception and the traceback's frames.
@pytest.mark.only("ferroloop")
@pytest.mark.parametrize("upgrade", [False, True], ids=["create_connection", "start_tls"])
def test_a_failed_handshake_leaves_no_cycle(run, upgrade):
    left = []

    class Plain(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            left.append(weakref.ref(transport))

        def connection_lost(self, error):
            # Not stored: its traceback refers to a frame that refers to this protocol.
            super().connection_lost(None)

    def make():
        protocol = Plain()
        left.append(weakref.ref(protocol))
        return protocol

    async def connect(address, context):
        loop = asyncio.get_running_loop()
        try:
            if upgrade:
                transport, protocol = await loop.create_connection(make, *address)
                await loop.start_tls(transport, protocol, context, server_hostname=HOST)
            else:
                await loop.create_connection(make, *address, ssl=context, server_hostname=HOST)
        except ssl.SSLCertVerificationError:
            return True
        return False

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, report: None)
        # The client does not trust the server.
        context = ssl.create_default_context()
        async with Server() as server:
            gc.collect()
            gc.disable()
            try:
                assert await connect(server.address, context)
                await nothing_left()
                assert len(left) == 1 + upgrade
                assert [reference() for reference in left] == [None] * len(left)
            finally:
                gc.enable()

    run(main())
