"""TLS by OpenSSL's own functions: when they are used; errors are those of the SSL object."""

import _ssl
import asyncio
import contextlib
import ctypes
import socket
import ssl
import sysconfig
import threading

import pytest

from ..support import peers
from ..support.certificates import HOST, client_context, server_context
from ..support.protocols import BufferedRecorder, Recorder
from ..support.tls import Echo, Server, closed, nothing_left

#: without one the methods of the SSL object are used, which lock it
WITH_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def uses_openssl(transport):
    return transport._ssl_protocol._uses_openssl_directly


@pytest.mark.only("ferroloop")
def test_openssl_is_used_where_it_is_asked_for(run, flavour):
    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            assert uses_openssl(transport) is (WITH_GIL and not flavour.tls_by_objects)
            transport.write(b"x" * 100_000)
            await client.until(lambda: len(client.received) == 100_000)
            transport.close()
            await closed(client, *server.protocols)

    run(main())


@pytest.mark.only("ferroloop")
def test_a_callback_for_messages_sees_all_of_them(run):
    """Its exceptions are raised by the methods of the SSL object."""
    seen = []

    async def main():
        context = client_context()
        context._msg_callback = lambda *message: seen.append(message[1:4])
        async with Server() as server:
            transport, client = await server.connect(context)
            assert not uses_openssl(transport)
            before = len(seen)
            transport.write(b"x")
            await client.until(lambda: client.received == b"x")
            directions = {direction for direction, *_ in seen[before:]}
            assert directions == {"read", "write"}
            transport.close()
            await closed(client, *server.protocols)

    run(main())


@pytest.mark.only("ferroloop")
def test_a_context_with_bios_of_its_own(run):
    """The context connects other BIOs with those that it is given."""

    class Piped(ssl.SSLContext):
        def wrap_bio(self, incoming, outgoing, **options):
            inner = ssl.MemoryBIO(), ssl.MemoryBIO()
            sslobject = super().wrap_bio(*inner, **options)

            def piped(method):
                def call(*arguments):
                    inner[0].write(incoming.read())
                    try:
                        return method(*arguments)
                    finally:
                        outgoing.write(inner[1].read())

                return call

            for name in ("do_handshake", "read", "write", "unwrap"):
                setattr(sslobject, name, piped(getattr(sslobject, name)))
            return sslobject

    async def main():
        context = Piped(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with Server() as server:
            transport, client = await server.connect(context)
            assert not uses_openssl(transport)
            transport.write(b"x" * 40_000)
            await client.until(lambda: len(client.received) == 40_000)
            transport.close()
            await closed(client, *server.protocols)

    run(main())


def serve_with_bios(context, function):
    """For peers.listening(): a handshake, then `function(connection, sslobject, *bios)`."""

    def serve(connection):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        sslobject = context.wrap_bio(incoming, outgoing, server_side=True)

        def retry(method, *arguments):
            while True:
                try:
                    answer = method(*arguments)
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(65536))
                else:
                    connection.sendall(outgoing.read())
                    return answer

        retry(sslobject.do_handshake)
        assert retry(sslobject.read, 5) == b"hello"
        function(connection, sslobject, incoming, outgoing)
        with contextlib.suppress(ConnectionError):
            peers.receive_all(connection)

    return serve


def flipped(record):
    return record[:-1] + bytes([record[-1] ^ 1])


def bad_record(connection, sslobject, incoming, outgoing):
    sslobject.write(b"good")
    good = outgoing.read()
    sslobject.write(b"bad")
    connection.sendall(good + flipped(outgoing.read()) + good)


def bad_type(connection, sslobject, incoming, outgoing):
    sslobject.write(b"good")
    connection.sendall(outgoing.read() + b"\x63\x03\x03\x00\x05abcdef")


def too_long(connection, sslobject, incoming, outgoing):
    sslobject.write(b"good")
    connection.sendall(outgoing.read() + b"\x17\x03\x03\xff\xff" + b"x" * 70_000)


def alert(connection, sslobject, incoming, outgoing):
    """The peer cannot decrypt a record, and tells so."""
    sslobject.write(b"good")
    incoming.write(b"\x17\x03\x03\x00\x40" + b"x" * 64)
    with pytest.raises(ssl.SSLError):
        sslobject.read(1)
    connection.sendall(outgoing.read())


def closing(connection, sslobject, incoming, outgoing):
    sslobject.write(b"good")
    with contextlib.suppress(ssl.SSLWantReadError):
        sslobject.unwrap()
    connection.sendall(outgoing.read() + b"more that nothing reads")


def end(connection, sslobject, incoming, outgoing):
    sslobject.write(b"good")
    record = outgoing.read()
    sslobject.write(b"truncated")
    connection.sendall(record + outgoing.read()[:-3])
    connection.shutdown(socket.SHUT_WR)


@pytest.mark.only("ferroloop")
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("what", [bad_record, bad_type, too_long, alert, closing, end])
def test_errors_are_those_of_the_ssl_object(flavour, monkeypatch, what, version):
    def outcome():
        context = server_context(version=version)
        reports = []

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, report: reports.append(report))
            transport, client = await loop.create_connection(
                Recorder, *address, ssl=client_context(), server_hostname=HOST
            )
            transport.write(b"hello")
            reason = await client.done
            await nothing_left()
            return client.calls, bytes(client.received), reason

        with peers.listening(serve_with_bios(context, what)) as address:
            calls, received, reason = flavour.run(main())
        exceptions = [reason, *(report.get("exception") for report in reports)]
        return (
            calls,
            received,
            [
                error and (type(error), error.args, str(error), getattr(error, "reason", None))
                for error in exceptions
            ],
            [report["message"] for report in reports],
        )

    found = outcome()
    assert found[1] == b"good"
    monkeypatch.setenv("FERROLOOP_TLS", "objects")
    assert found == outcome()


class BufferedEcho(BufferedRecorder):
    def buffer_updated(self, nbytes):
        super().buffer_updated(nbytes)
        self.transport.write(self.buffer[:nbytes])


@pytest.mark.parametrize("protocol", [Echo, BufferedEcho])
def test_a_write_after_a_failure_does_not_hide_its_cause(run, protocol):
    """The data before a bad record may be delivered, and the protocol writes then.

    Newer versions of OpenSSL call the cause a failure of the record layer.
    """

    async def main():
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_connection(
            protocol, *address, ssl=client_context(), server_hostname=HOST
        )
        transport.write(b"hello")
        reason = await client.done
        assert type(reason) is ssl.SSLError
        assert reason.reason in ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")

    with peers.listening(serve_with_bios(server_context(), bad_record)) as address:
        run(main())


def test_the_ssl_object_may_be_used_while_data_is_delivered(run):
    class Curious(Echo):
        def data_received(self, data):
            sslobject = self.transport.get_extra_info("ssl_object")
            assert sslobject.pending() == 0
            assert sslobject.cipher() == self.transport.get_extra_info("cipher")
            with pytest.raises(ssl.SSLWantReadError):
                sslobject.read(10)
            super().data_received(data)

    async def main():
        async with Server(protocol=Curious) as server:
            transport, client = await server.connect()
            data = bytes(range(256)) * 1000
            for start in range(0, len(data), 10_000):
                transport.write(data[start : start + 10_000])
                await asyncio.sleep(0)
            await client.until(lambda: len(client.received) == len(data))
            assert client.received == data
            transport.close()
            await closed(client, *server.protocols)

    run(main())


def test_what_the_program_writes_by_the_ssl_object_keeps_its_place(run):
    """It waits in the BIO until the transport sends again, before what is written later."""

    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            transport.write(b"one")
            assert transport.get_extra_info("ssl_object").write(b"two") == 3
            transport.write(b"three")
            await client.until(lambda: client.received == b"onetwothree")
            transport.close()
            await closed(client, *server.protocols)

    run(main())


def test_another_thread_asks_the_ssl_object(run):
    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            sslobject = transport.get_extra_info("ssl_object")
            stop = threading.Event()
            errors = []

            def ask():
                try:
                    while not stop.is_set():
                        sslobject.cipher()
                        sslobject.version()
                except BaseException as error:
                    errors.append(error)

            thread = threading.Thread(target=ask)
            thread.start()
            for _ in range(100):
                transport.write(b"x" * 1000)
                await asyncio.sleep(0.001)
            await client.until(lambda: len(client.received) == 100_000)
            stop.set()
            thread.join()
            assert errors == []
            transport.close()
            await closed(client, *server.protocols)

    run(main())


def openssl(name, sslobject, *arguments):
    """Call a function of OpenSSL that Python has not, for a peer."""
    function = ctypes.CDLL(_ssl.__file__)[name]
    function.argtypes = (ctypes.c_void_p, *[ctypes.c_int] * len(arguments))
    place = id(sslobject._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
    return function(ctypes.c_void_p.from_address(place), *arguments)


async def echo_until_closed(address, size):
    """Echo `size` bytes of a server, until it ends the connection in order."""
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(
        Echo, *address, ssl=client_context(), server_hostname=HOST
    )
    transport.write(b"hello")
    assert await client.done is None
    assert len(client.received) == size


def test_the_peer_updates_its_keys(run):
    """Of TLS 1.3: only its own, or both. The answer is a record that only reading causes."""
    sizes = [1, 20_000, 100_000, 5, 70_000, 3]

    def serve(connection, sslobject, incoming, outgoing):
        for number, size in enumerate(sizes):
            assert openssl("SSL_key_update", sslobject, number % 2) == 1
            sslobject.write(b"x" * size)
            connection.sendall(outgoing.read())
            left = size
            while left:
                try:
                    left -= len(sslobject.read(left))
                except ssl.SSLWantReadError:
                    incoming.write(connection.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            sslobject.unwrap()
        connection.sendall(outgoing.read())

    context = server_context(version=ssl.TLSVersion.TLSv1_3)
    with peers.listening(serve_with_bios(context, serve)) as address:
        run(echo_until_closed(address, sum(sizes)))


def send_during_a_handshake(connection, sslobject, incoming, outgoing):
    """Begin another handshake of TLS 1.2, and send data before it and during it."""
    assert openssl("SSL_renegotiate", sslobject) == 1
    assert openssl("SSL_do_handshake", sslobject) == 1
    sslobject.write(b"first")
    connection.sendall(outgoing.read())
    incoming.write(connection.recv(65536))
    sslobject.write(b"second")
    connection.sendall(outgoing.read())


def test_data_during_another_handshake_while_reading_is_paused(run):
    """Of TLS 1.2. What is written waits for the handshake, and that for the reader."""

    def serve(connection, sslobject, incoming, outgoing):
        send_during_a_handshake(connection, sslobject, incoming, outgoing)
        received = b""
        while received != b"answer":
            try:
                received += sslobject.read(100)
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            sslobject.unwrap()
        connection.sendall(outgoing.read())

    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if self.received == b"first":
                self.transport.pause_reading()
                self.transport.write(b"answer")

    async def main():
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_connection(
            Pausing, *address, ssl=client_context(), server_hostname=HOST
        )
        transport.write(b"hello")
        await client.until(lambda: client.received)
        await nothing_left()
        assert client.received == b"first"
        transport.resume_reading()
        assert await client.done is None
        assert client.received == b"firstsecond"

    context = server_context(version=ssl.TLSVersion.TLSv1_2)
    with peers.listening(serve_with_bios(context, serve)) as address:
        run(main())


def test_a_write_when_data_has_arrived_during_another_handshake(run):
    """Of TLS 1.2: the SSL object refuses it, and tells why."""
    sent = threading.Event()

    def serve(connection, sslobject, incoming, outgoing):
        send_during_a_handshake(connection, sslobject, incoming, outgoing)
        sent.set()

    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async def main():
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_connection(
            Pausing, *address, ssl=client_context(), server_hostname=HOST
        )
        transport.write(b"hello")
        while not sent.is_set():
            await asyncio.sleep(0.005)
        await nothing_left()
        assert client.received == b"first"
        transport.write(b"answer")
        reason = await client.done
        assert (type(reason), reason.reason) == (ssl.SSLError, "UNEXPECTED_RECORD")

    context = server_context(version=ssl.TLSVersion.TLSv1_2)
    with peers.listening(serve_with_bios(context, serve)) as address:
        run(main())


def test_the_peer_begins_another_handshake(run):
    """Of TLS 1.2. What is written meanwhile waits for its end."""
    sizes = [1, 100_000, 30_000]

    def serve(connection, sslobject, incoming, outgoing):
        for size in sizes:
            assert openssl("SSL_renegotiate", sslobject) == 1
            assert openssl("SSL_do_handshake", sslobject) == 1
            sslobject.write(b"x" * size)
            left = size
            while left:
                try:
                    left -= len(sslobject.read(left))
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            sslobject.unwrap()
        connection.sendall(outgoing.read())

    context = server_context(version=ssl.TLSVersion.TLSv1_2)
    with peers.listening(serve_with_bios(context, serve)) as address:
        run(echo_until_closed(address, sum(sizes)))
