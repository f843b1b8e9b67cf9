"""`create_connection()` and `sock_connect()`: to addresses and names, refused and cancelled."""

import asyncio
import contextlib
import errno
import gc
import socket
import sys
import warnings

import pytest


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.events = []

    def connection_made(self, transport):
        self.events.append("made")
        self.transport = transport

    def data_received(self, data):
        self.events.append(data)

    def connection_lost(self, exception):
        self.events.append(exception)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def full():
    """An address whose accept backlog is full: an attempt to connect stays pending."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(listener.getsockname())
        yield listener.getsockname()


def refusing():
    """An address without a listener."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ssl": None, "sock": None, "local_addr": None, "family": 0, "proto": 0, "flags": 0},
        {"ssl": False, "happy_eyeballs_delay": None, "interleave": None},
        {"happy_eyeballs_delay": 0.25},
        {"family": socket.AF_INET, "proto": socket.IPPROTO_TCP},
        {"local_addr": ("127.0.0.1", 0)},
    ],
    ids=str,
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connection(run, listener, host, options, log):
    async def main():
        loop = asyncio.get_running_loop()
        address = listener.getsockname()
        transport, protocol = await loop.create_connection(Recorder, host, address[1], **options)
        peer, name = listener.accept()
        with peer:
            assert protocol.events == ["made"]
            assert protocol.transport is transport
            assert transport.get_extra_info("peername") == address
            assert transport.get_extra_info("sockname") == name
            sock = transport.get_extra_info("socket")
            assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
            assert sock.proto == socket.IPPROTO_TCP
            assert sock.gettimeout() == 0
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            peer.sendall(b"hello")
            while len(protocol.events) < 2:
                await asyncio.sleep(0.001)
            transport.close()
            await turns()
        assert protocol.events == ["made", b"hello", None]

    run(main())
    log.records.clear()


def test_ipv6(run):
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")

    async def main():
        loop = asyncio.get_running_loop()
        with listener:
            address = listener.getsockname()
            transport, _ = await loop.create_connection(Recorder, "::1", address[1])
            assert transport.get_extra_info("peername") == address
            transport.close()
            with socket.socket(socket.AF_INET6) as client:
                client.setblocking(False)
                await loop.sock_connect(client, address[:2])
                assert client.getpeername() == address
            await turns()

    run(main())


def test_events_come_in_order(run, listener):
    """Data that has already arrived is not delivered before the caller has the connection."""

    async def main():
        loop = asyncio.get_running_loop()
        accepted = []

        def accept():
            peer, _ = listener.accept()
            peer.sendall(b"first")
            accepted.append(peer)

        listener.setblocking(False)
        loop.add_reader(listener, accept)
        _, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        assert protocol.events == ["made"]
        while len(protocol.events) < 2:
            await asyncio.sleep(0)
        assert protocol.events == ["made", b"first"]
        loop.remove_reader(listener)
        accepted[0].close()
        protocol.transport.close()
        await turns()

    run(main())


@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": 0.25}], ids=str)
def test_refused(run, options):
    async def main():
        loop = asyncio.get_running_loop()
        address = refusing()
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(Recorder, *address, **options)
        assert caught.value.errno == errno.ECONNREFUSED
        assert str(caught.value) == f"[Errno {errno.ECONNREFUSED}] Connect call failed {address}"
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError) as caught:
                await loop.sock_connect(client, address)
        assert str(caught.value) == f"[Errno {errno.ECONNREFUSED}] Connect call failed {address}"

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors is new in 3.12")
def test_all_errors(run):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ExceptionGroup, match="create_connection failed") as caught:
            await loop.create_connection(Recorder, *refusing(), all_errors=True)
        assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError]

    run(main())


def test_cancelled_while_connecting(run, full):
    async def main():
        loop = asyncio.get_running_loop()
        connecting = loop.create_task(loop.create_connection(Recorder, *full))
        await turns()
        assert not connecting.done()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        with socket.socket() as client:
            client.setblocking(False)
            connecting = loop.create_task(loop.sock_connect(client, full))
            await turns()
            assert not connecting.done()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            # The descriptor is no longer watched.
            await turns(1)
            assert loop.remove_writer(client) is False

    run(main())


def test_cancelled_at_each_await(run, listener):
    """A cancelled attempt leaves nothing open, however far it has progressed."""

    async def main():
        loop = asyncio.get_running_loop()
        for steps in range(8):
            connecting = loop.create_task(loop.create_connection(Recorder, *listener.getsockname()))
            await turns(steps)
            if connecting.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await connecting
            else:
                (await connecting)[0].close()
            await turns()

    run(main())


def test_failing_factory(run, listener):
    def factory():
        raise LookupError("no protocol")

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(LookupError, match="no protocol"):
            await loop.create_connection(factory, *listener.getsockname())

    with warnings.catch_warnings():
        # asyncio leaves the socket to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        run(main())
        gc.collect()


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((), {}, "host and port was not specified and no sock specified"),
        (("127.0.0.1", 80), {"server_hostname": "x"}, "server_hostname is only meaningful"),
        (("127.0.0.1", 80), {"ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only mean"),
    ],
)
def test_bad_arguments(run, arguments, options, error):
    async def main():
        with pytest.raises(ValueError, match=error):
            await asyncio.get_running_loop().create_connection(Recorder, *arguments, **options)

    run(main())


def test_unknown_keyword(run):
    async def main():
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            await asyncio.get_running_loop().create_connection(
                Recorder, "127.0.0.1", 1, colour="red"
            )

    run(main())


@pytest.mark.parametrize("port", [-1, 65_536, 1 << 40, "http", None])
def test_unusual_ports(run, port):
    async def main():
        with pytest.raises((OSError, OverflowError)):
            await asyncio.get_running_loop().create_connection(Recorder, "127.0.0.1", port)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main())
        gc.collect()


def test_replaced_methods_are_used(flavour, listener):
    """Programs count or divert connections by replacing methods that asyncio would call."""
    calls = []

    async def main():
        loop = asyncio.get_running_loop()
        original = loop.sock_connect

        async def sock_connect(sock, address):
            calls.append(address)
            return await original(sock, address)

        loop.sock_connect = sock_connect
        transport, _ = await loop.create_connection(Recorder, *listener.getsockname())
        transport.close()
        await turns()
        del loop.sock_connect

    flavour.run(main())
    assert calls == [listener.getsockname()]


def test_audit_events(run, listener):
    """Audit hooks see each connection."""
    events = []
    active = True

    def hook(event, arguments):
        if active and event in ("socket.connect", "socket.__new__"):
            events.append(event)

    sys.addaudithook(hook)  # permanent: it cannot be removed

    async def main():
        transport, _ = await asyncio.get_running_loop().create_connection(
            Recorder, *listener.getsockname()
        )
        transport.close()
        await turns()

    run(main())
    active = False
    assert events.count("socket.connect") == 1
    assert "socket.__new__" in events


def test_unix_socket(run, tmp_path):
    path = str(tmp_path / "socket")

    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            with pytest.raises(FileNotFoundError):
                await loop.sock_connect(client, path)
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(path)
            listener.listen()
            client.setblocking(False)
            assert await loop.sock_connect(client, path) is None
            peer, _ = listener.accept()
            with peer:
                await loop.sock_sendall(client, b"x")
                assert peer.recv(1) == b"x"

    run(main())


def test_names_are_looked_up(run, listener):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
            assert client.getpeername() == listener.getsockname()

    run(main())


@pytest.mark.mode("debug")
def test_blocking_sockets_are_refused(run, listener):
    async def main():
        with socket.socket() as client:
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                await asyncio.get_running_loop().sock_connect(client, listener.getsockname())

    run(main())


def test_many_at_once(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, backlog=512)
        address = server.sockets[0].getsockname()
        made = await asyncio.gather(
            *[loop.create_connection(Recorder, *address) for _ in range(200)]
        )
        assert len({transport.get_extra_info("sockname") for transport, _ in made}) == 200
        for transport, _ in made:
            transport.close()
        server.close()
        await server.wait_closed()
        await turns()

    run(main())
