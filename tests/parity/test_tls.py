"""TLS with transports and protocols: handshakes, certificates, closing, failures."""

import asyncio
import contextlib
import gc
import socket
import ssl
import sys

import pytest

from ..support import peers
from ..support.certificates import HOST, client_context, server_context
from ..support.protocols import Recorder
from ..support.tls import Echo, Server, closed, nothing_left, tls_thread

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def warnings(log):
    """The logged texts, except slow-callback reports, which a busy machine causes."""
    return [text for text in log.messages() if not text.startswith("Executing ")]


# --- the whole life of a connection -----------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_echo(run, version):
    async def main():
        async with Server() as server:
            transport, client = await server.connect(client_context(version=version))
            assert client.calls == ["made"]
            transport.write(b"one")
            transport.writelines([b"two", bytearray(b"three"), memoryview(b"four")])
            await client.until(lambda: len(client.received) == 15)
            transport.close()
            assert transport.is_closing()
            reasons = await closed(client, server.protocols[0])
        assert reasons == [None, None]
        assert client.received == b"onetwothreefour"
        assert client.calls == ["made", "data", "eof", "lost"]
        assert server.protocols[0].calls == ["made", "data", "eof", "lost"]

    run(main())


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_against_a_blocking_server(run, version):
    context = server_context(version=version)
    with peers.listening(tls_thread(context, peers.echo)) as address:

        async def main():
            loop = asyncio.get_running_loop()
            transport, client = await loop.create_connection(
                Recorder, *address, ssl=client_context(), server_hostname=HOST
            )
            transport.write(b"x" * 100_000)
            await client.until(lambda: len(client.received) == 100_000)
            transport.close()
            return await client.done

        assert run(main()) is None


def test_extra_information(run):
    async def main():
        async with Server() as server:
            context = client_context()
            transport, client = await server.connect(context)
            object_ = transport.get_extra_info("ssl_object")
            assert isinstance(object_, ssl.SSLObject)
            assert transport.get_extra_info("sslcontext") is context
            assert transport.get_extra_info("cipher") == object_.cipher()
            assert transport.get_extra_info("compression") is None
            subject = transport.get_extra_info("peercert")["subjectAltName"]
            assert subject == (("DNS", HOST),)
            assert transport.get_extra_info("peername") == server.address
            assert transport.get_extra_info("socket").fileno() > 0
            assert transport.get_extra_info("nothing") is None
            assert transport.get_extra_info("nothing", 7) == 7
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(transport._ssl_protocol, asyncio.BufferedProtocol)
            name = "asyncio.sslproto._SSLProtocolTransport object at 0x"
            assert repr(transport).startswith(f"<{name}")
            assert type(transport.get_protocol()) is Recorder
            assert not transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                transport.write_eof()
            with pytest.raises(
                TypeError, match=r"^data: expecting a bytes-like instance, got str$"
            ):
                transport.write("text")
            transport.close()
            await closed(client, server.protocols[0])
            assert transport.get_extra_info("cipher") == object_.cipher()
            assert transport.get_extra_info("peername") is None

    run(main())


def test_the_server_knows_a_client_by_its_certificate(run):
    async def main():
        context = server_context(verify_mode=ssl.CERT_REQUIRED)
        async with Server(context) as server:
            transport, client = await server.connect(client_context("client"))
            transport.write(b"hello")
            await client.until(lambda: client.received)
            peer = server.protocols[0].transport.get_extra_info("peercert")
            assert peer["subjectAltName"] == (("email", "client@example.org"),)
            transport.close()
            await closed(client, server.protocols[0])

    run(main())


def test_alpn_and_sni(run):
    names = []

    async def main():
        context, chosen = server_context(), server_context()
        chosen.set_alpn_protocols(["h2", "http/1.1"])
        context.set_alpn_protocols(["h2", "http/1.1"])

        def on_name(object_, name, context):
            names.append(name)
            object_.context = chosen

        context.sni_callback = on_name
        async with Server(context) as server:
            asking = client_context()
            asking.set_alpn_protocols(["http/1.1", "h2"])
            transport, client = await server.connect(asking)
            assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            assert client.transport is transport
            transport.close()
            await closed(client, server.protocols[0])
        context.sni_callback = None

    run(main())
    assert names == [HOST]


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_session_resumption(run, version):
    async def main():
        context = client_context(version=version)
        reused, sessions = [], []

        # asyncio has no parameter for a session, but a context can have its own SSL objects.
        class Resuming(ssl.SSLObject):
            def do_handshake(self):
                if sessions and self.session is None:
                    self.session = sessions[0]
                super().do_handshake()

        context.sslobject_class = Resuming
        async with Server() as server:
            for _ in range(2):
                transport, client = await server.connect(context)
                transport.write(b"x")
                await client.until(lambda client=client: client.received)
                object_ = transport.get_extra_info("ssl_object")
                reused.append(object_.session_reused)
                sessions.append(object_.session)
                transport.close()
                await client.done
            await closed(*server.protocols)
        return reused

    assert run(main()) == [False, True]


def test_an_overridden_ssl_object_is_used(run):
    """`SSLContext.sslobject_class` may override methods."""
    calls = []

    class Counting(ssl.SSLObject):
        def read(self, *args):
            calls.append("read")
            return super().read(*args)

        def write(self, data):
            calls.append("write")
            return super().write(data)

    async def main():
        context = client_context()
        context.sslobject_class = Counting
        async with Server() as server:
            transport, client = await server.connect(context)
            transport.write(b"x")
            await client.until(lambda: client.received == b"x")
            transport.close()
            await closed(client, server.protocols[0])

    run(main())
    assert "read" in calls
    assert calls.count("write") == 1


def test_keylog(run, tmp_path):
    async def main():
        context = client_context()
        context.keylog_filename = tmp_path / "keys"
        async with Server() as server:
            transport, client = await server.connect(context)
            transport.close()
            await closed(client, server.protocols[0])

    run(main())
    assert "CLIENT_TRAFFIC_SECRET_0" in (tmp_path / "keys").read_text()


def test_unix_sockets(run, tmp_path):
    path = str(tmp_path / "socket")

    async def main():
        loop = asyncio.get_running_loop()
        protocols = []

        def make():
            protocols.append(Echo())
            return protocols[-1]

        server = await loop.create_unix_server(make, path, ssl=server_context())
        transport, client = await loop.create_unix_connection(
            Recorder, path, ssl=client_context(), server_hostname=HOST
        )
        transport.write(b"hello")
        await client.until(lambda: client.received == b"hello")
        assert transport.get_extra_info("peername") == path
        transport.close()
        await closed(client, protocols[0])
        server.close()
        await server.wait_closed()

    run(main())


def test_connect_accepted_socket(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        (_, server), (transport, client) = await asyncio.gather(
            loop.connect_accepted_socket(Echo, ours, ssl=server_context()),
            loop.create_connection(
                Recorder, sock=theirs, ssl=client_context(), server_hostname=HOST
            ),
        )
        transport.write(b"hello")
        await client.until(lambda: client.received == b"hello")
        transport.close()
        assert await closed(client, server) == [None, None]

    run(main())


def test_arguments(run):
    async def main():
        loop = asyncio.get_running_loop()
        for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            for bad in (0, -1):
                text = f"^{name} should be a positive number, got {bad}$"
                # From 3.14.8 on asyncio closes the socket in this case.
                ours, theirs = socket.socketpair()
                with ours, theirs, pytest.raises(ValueError, match=text):
                    await loop.create_connection(
                        Recorder,
                        sock=ours,
                        ssl=client_context(),
                        server_hostname=HOST,
                        **{name: bad},
                    )
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(ValueError, match="set server_hostname"):
            await loop.create_connection(Recorder, sock=ours, ssl=True)

    run(main())


# --- bad certificates -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["expired", "other host", "unknown issuer"])
def test_a_bad_certificate_reaches_the_caller(flavour, run, log, kind):
    expected = {
        "expired": "certificate has expired",
        "other host": "Hostname mismatch",
        "unknown issuer": "unable to get local issuer certificate",
    }[kind]
    handled = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: handled.append(context))
        async with Server(server_context(kind)) as server:
            with pytest.raises(ssl.SSLCertVerificationError, match=expected):
                await server.connect()
            await nothing_left()
            # connection_made() was not called, so connection_lost() is not either.
            assert [protocol.calls for protocol in server.protocols] in ([[]], [["made", "lost"]])

    run(main())
    if flavour.debug:
        for context in handled:
            assert list(context) == ["message", "exception", "protocol", "transport"]
            assert context["message"] == "Error on transport creation for incoming connection"
    else:
        assert handled == []
    handled.clear()


def test_a_missing_client_certificate(flavour, run):
    async def main():
        loop = asyncio.get_running_loop()
        handled = []
        loop.set_exception_handler(lambda loop, context: handled.append(context))
        context = server_context(verify_mode=ssl.CERT_REQUIRED, version=ssl.TLSVersion.TLSv1_2)
        async with Server(context) as server:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await server.connect()
            await nothing_left()
            assert server.protocols[0].calls == []
        if flavour.debug:
            (report,) = handled
            assert list(report) == ["message", "exception", "protocol", "transport"]
            assert isinstance(report["exception"], ssl.SSLError)
            assert report["transport"].is_closing()
            assert report["protocol"] is server.protocols[0]
        else:
            assert handled == []
        handled.clear()

    run(main())


# --- peers that misbehave ---------------------------------------------------------


def test_plain_text_to_a_tls_port(flavour, run):
    handled = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: handled.append(context))
        async with Server() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await reader.read() == b""
            writer.close()
            await nothing_left()
            assert server.protocols[0].calls == []

    run(main())
    assert len(handled) == int(flavour.debug)
    for context in handled:
        assert isinstance(context["exception"], ssl.SSLError)
        assert context["exception"].reason == "HTTP_REQUEST"
    handled.clear()


def test_plain_text_from_a_server(run):
    def speak(connection):
        connection.sendall(b"220 hello, I speak first\r\n")
        peers.receive_all(connection)

    with peers.listening(speak) as address:

        async def main():
            loop = asyncio.get_running_loop()
            with pytest.raises(ssl.SSLError, match=r"WRONG_VERSION_NUMBER|wrong version number"):
                await loop.create_connection(
                    Recorder, *address, ssl=client_context(), server_hostname=HOST
                )

        run(main())


def test_the_peer_closes_during_the_handshake(run):
    def leave(connection):
        connection.recv(10)

    with peers.listening(leave) as address:

        async def main():
            loop = asyncio.get_running_loop()
            with pytest.raises(ConnectionResetError):
                await loop.create_connection(
                    Recorder, *address, ssl=client_context(), server_hostname=HOST
                )

        run(main())


def test_the_handshake_takes_too_long(run):
    def wait(connection):
        peers.receive_all(connection)

    with peers.listening(wait) as address:

        async def main():
            loop = asyncio.get_running_loop()
            with pytest.raises(
                ConnectionAbortedError,
                match=r"^SSL handshake is taking longer than 0\.05 seconds: "
                r"aborting the connection$",
            ):
                await loop.create_connection(
                    Recorder,
                    *address,
                    ssl=client_context(),
                    server_hostname=HOST,
                    ssl_handshake_timeout=0.05,
                )

        run(main())


def test_a_silent_client_is_dropped(flavour, run):
    handled = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: handled.append(context))
        async with Server(ssl_handshake_timeout=0.05) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            assert await reader.read() == b""
            writer.close()
            await nothing_left()

    run(main())
    assert len(handled) == int(flavour.debug)
    for context in handled:
        assert isinstance(context["exception"], ConnectionAbortedError)
    handled.clear()


def test_the_shutdown_takes_too_long(run):
    context = server_context()

    def ignore(wrapped):
        # Reads the raw socket: close_notify is never answered.
        plain = socket.socket(fileno=socket.dup(wrapped.fileno()))
        # The system resets a connection that is closed with unread data, such as session tickets.
        with plain, contextlib.suppress(ConnectionResetError):
            plain.settimeout(peers.SECONDS)
            peers.receive_all(plain)

    with peers.listening(tls_thread(context, ignore)) as address:

        async def main():
            loop = asyncio.get_running_loop()
            transport, client = await loop.create_connection(
                Recorder,
                *address,
                ssl=client_context(),
                server_hostname=HOST,
                ssl_shutdown_timeout=0.05,
            )
            transport.close()
            reason = await client.done
            assert isinstance(reason, TimeoutError)
            assert str(reason) == "SSL shutdown timed out"

        run(main())


def test_the_stream_ends_without_close_notify(run):
    context = server_context()

    def end(wrapped):
        wrapped.sendall(b"last words")
        wrapped.recv(1)
        socket.socket(fileno=wrapped.detach()).close()

    def serve(connection):
        end(context.wrap_socket(connection, server_side=True))

    with peers.listening(serve) as address:

        async def main():
            loop = asyncio.get_running_loop()
            transport, client = await loop.create_connection(
                Recorder, *address, ssl=client_context(), server_hostname=HOST
            )
            await client.until(lambda: client.received == b"last words")
            transport.write(b"x")
            assert await client.done is None
            assert client.calls == ["made", "data", "eof", "lost"]
            assert transport.is_closing()

        run(main())


def test_the_peer_resets_the_connection(run):
    context = server_context()

    def serve(connection):
        wrapped = context.wrap_socket(connection, server_side=True)
        wrapped.recv(1)
        peers.reset(socket.socket(fileno=wrapped.detach()))

    with peers.listening(serve) as address:

        async def main():
            loop = asyncio.get_running_loop()
            transport, client = await loop.create_connection(
                Recorder, *address, ssl=client_context(), server_hostname=HOST
            )
            transport.write(b"x")
            assert isinstance(await client.done, ConnectionResetError)
            assert client.calls == ["made", "lost"]

        run(main())


def test_garbage_after_the_handshake(run):
    context = server_context()

    def serve(connection):
        wrapped = context.wrap_socket(connection, server_side=True)
        wrapped.sendall(b"good")
        with socket.socket(fileno=wrapped.detach()) as plain:
            plain.settimeout(peers.SECONDS)
            plain.recv(1)
            # Not a TLS header, and shorter than the length it declares.
            plain.sendall(b"\x17\x09\x09\xff\xff garbage")
            peers.receive_all(plain)

    with peers.listening(serve) as address:

        async def main():
            loop = asyncio.get_running_loop()
            transport, client = await loop.create_connection(
                Recorder, *address, ssl=client_context(), server_hostname=HOST
            )
            await client.until(lambda: client.received == b"good")
            transport.write(b"x")
            assert isinstance(await client.done, ssl.SSLError)
            assert client.calls == ["made", "data", "lost"]

        run(main())


# --- ending a connection ----------------------------------------------------------


def test_abort(run):
    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            await nothing_left()
            transport.write(b"x" * 10_000_000)
            transport.abort()
            assert transport.is_closing()
            assert await client.done is None
            assert client.calls[-1] == "lost"
            await closed(server.protocols[0])

    run(main())


def test_close_sends_what_was_written(run):
    async def main():
        async with Server(protocol=Recorder) as server:
            transport, client = await server.connect()
            data = bytes(range(256)) * 20_000
            transport.write(data)
            transport.close()
            transport.write(b"too late")
            await closed(client, server.protocols[0])
            assert server.protocols[0].received == data

    run(main())


def test_writes_after_the_end_are_counted(run, log):
    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            transport.close()
            await closed(client, server.protocols[0])
            for _ in range(8):
                transport.write(b"x")

    run(main())
    assert set(warnings(log)) == {"SSL connection is closed"}


def test_closing_twice(run):
    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            transport.close()
            transport.close()
            await closed(client, server.protocols[0])
            assert transport.is_closing()

    run(main())


def test_close_in_connection_made(run):
    class Closing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"bye")
            transport.close()

    async def main():
        async with Server(protocol=Closing) as server:
            _, client = await server.connect()
            assert await closed(client, server.protocols[0]) == [None, None]
            assert client.received == b"bye"

    run(main())


def test_exceptions_of_the_protocol(flavour, run):
    class Failing(Recorder):
        def data_received(self, data):
            raise ZeroDivisionError("in data_received")

    async def main():
        loop = asyncio.get_running_loop()
        handled = []
        loop.set_exception_handler(lambda loop, context: handled.append(context))
        async with Server() as server:
            transport, client = await server.connect(protocol=Failing)
            transport.write(b"x")
            assert isinstance(await client.done, ZeroDivisionError)
            await closed(server.protocols[0])
        (context,) = handled
        assert list(context) == ["message", "exception", "transport", "protocol"]
        assert context["message"] == "Fatal error on SSL protocol"
        assert repr(context["protocol"]).startswith("<asyncio.sslproto.SSLProtocol object at 0x")
        handled.clear()

    run(main())


def test_returning_true_from_eof_received_has_no_effect(run, log):
    class Stubborn(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    async def main():
        async with Server() as server:
            transport, client = await server.connect(protocol=Stubborn)
            await nothing_left()
            server.protocols[0].transport.close()
            assert await closed(client, server.protocols[0]) == [None, None]

    run(main())
    assert warnings(log) == ["returning true from eof_received() has no effect when using ssl"]


def test_a_dropped_transport_warns(run):
    async def main():
        async with Server(protocol=Recorder) as server:
            transport, client = await server.connect()
            await nothing_left()
            accepted = server.protocols[0]
            lower = transport._ssl_protocol._transport
            lower.pause_reading()
            lower.abort()  # the socket is closed, and the TLS transport is notified
            assert await client.done is None
            await closed(accepted)

    run(main())

    class Dropped(Exception):
        pass

    async def forget():
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        (_, _), (_, _) = await asyncio.gather(
            loop.connect_accepted_socket(Recorder, ours, ssl=server_context()),
            loop.create_connection(
                Recorder, sock=theirs, ssl=client_context(), server_hostname=HOST
            ),
        )

    with pytest.warns(ResourceWarning) as caught:
        run(forget())
        gc.collect()
    texts = [str(warning.message) for warning in caught]
    text = "unclosed transport <asyncio._SSLProtocolTransport object>"
    assert texts.count(text) == 2


# --- servers ----------------------------------------------------------------------


def test_many_handshakes_at_once(run):
    async def main():
        async with Server() as server:
            context = client_context()
            pairs = await asyncio.gather(*(server.connect(context) for _ in range(50)))
            for transport, _ in pairs:
                transport.write(b"hello")
            for transport, client in pairs:
                await client.until(lambda client=client: client.received == b"hello")
                transport.close()
            await closed(*(client for _, client in pairs), *server.protocols)

    run(main())


def test_connections_leak_nothing(run):
    async def main():
        async with Server() as server:
            context = client_context()
            for _ in range(100):
                transport, client = await server.connect(context)
                transport.write(b"x")
                await client.until(lambda client=client: client.received)
                transport.close()
                await closed(client, server.protocols.pop())

    run(main())


def test_cancelling_a_connection_attempt(run):
    def wait(connection):
        peers.receive_all(connection)

    with peers.listening(wait) as address:

        async def main():
            loop = asyncio.get_running_loop()
            task = asyncio.ensure_future(
                loop.create_connection(
                    Recorder, *address, ssl=client_context(), server_hostname=HOST
                )
            )
            await nothing_left()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await nothing_left()

        run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Server.wait_closed() waits since 3.12")
def test_the_server_waits_for_its_connections(run):
    async def main():
        server = Server()
        await server.__aenter__()
        transport, client = await server.connect()
        server.server.close()
        waiting = asyncio.ensure_future(server.server.wait_closed())
        await nothing_left()
        assert not waiting.done()
        transport.close()
        await closed(client, server.protocols[0])
        await waiting

    run(main())


def test_the_loop_ends_during_a_handshake(flavour, run, log):
    """The accepting task, listed by `asyncio.all_tasks()`, is cancelled and closes."""
    client = socket.socket()

    async def main():
        server = await asyncio.get_running_loop().create_server(
            Recorder, "127.0.0.1", 0, ssl=server_context()
        )
        client.connect(server.sockets[0].getsockname())
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) < 2:
                await asyncio.sleep(0.01)
        (accepting,) = asyncio.all_tasks() - {asyncio.current_task()}
        name = accepting.get_coro().__name__
        server.close()
        return name

    with client:
        client.settimeout(5)
        assert run(main()) == "_accept_connection2"
        # Nothing was left unclosed: the fixtures would report it.
        assert client.recv(100) == b""
    error = "Error on transport creation for incoming connection"
    reported = [text.splitlines()[0] for text in warnings(log)]
    assert reported == ([error] if flavour.debug else [])


def test_cancelling_an_accepting_task(flavour, run, log):
    async def main():
        async with Server() as server:
            with socket.socket() as client:
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, server.address)
                async with asyncio.timeout(5):
                    while len(asyncio.all_tasks()) < 2:
                        await asyncio.sleep(0.01)
                (accepting,) = asyncio.all_tasks() - {asyncio.current_task()}
                accepting.cancel()
                received = await asyncio.get_running_loop().sock_recv(client, 100)
            return received, [protocol.calls for protocol in server.protocols]

    assert run(main()) == (b"", [[]])
    assert bool(warnings(log)) == flavour.debug
