"""`send_segments()` of datagram transports, and protocols with `datagrams_received()`. asyncio has
neither."""

import asyncio
import errno
import os
import socket
from unittest import mock

import pytest

from ..support.protocols import DatagramRecorder

pytestmark = pytest.mark.only("ferroloop")

HOSTS = ["127.0.0.1", "::1"]


class Singly(DatagramRecorder):
    """Takes one datagram at a time."""

    def content(self):
        return [data for data, _ in self.received]

    async def until(self, count):
        async with asyncio.timeout(20):
            while len(self.received) + len(self.errors) < count:
                self.changed.clear()
                await self.changed.wait()


class Together(Singly):
    """Takes several."""

    def __init__(self):
        super().__init__()
        self.counts: list[int] = []

    def datagram_received(self, data, address):
        raise AssertionError("the other method is called")

    def datagrams_received(self, datagrams, address):
        assert type(datagrams) is list
        self.counts.append(len(datagrams))
        for data in datagrams:
            assert type(data) is bytes
            super().datagram_received(data, address)


def in_pieces(data, size):
    return [bytes(data[start : start + size]) for start in range(0, len(data), size)]


async def endpoint(factory=Singly, **options):
    return await asyncio.get_running_loop().create_datagram_endpoint(factory, **options)


async def pair(factory, host="127.0.0.1", connected=True):
    """A receiver, and a sender that is connected to it or not; the receiver's address."""
    receiver, heard = await endpoint(factory, local_addr=(host, 0))
    receiver.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    name = receiver.get_extra_info("sockname")
    where = {"remote_addr": name[:2]} if connected else {"local_addr": (host, 0)}
    sender, _ = await endpoint(**where)
    return receiver, heard, sender, name


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "by address"])
@pytest.mark.parametrize("factory", [Singly, Together])
def test_segments_arrive_as_datagrams(run, factory, connected, host):
    async def main():
        receiver, heard, sender, name = await pair(factory, host, connected)
        where = () if connected else (name,)
        own = sender.get_extra_info("sockname")
        sizes = [(10, 10), (10, 20), (1000, 10), (1000, 2500), (1000, 3000), (1200, 1201), (9, 1)]
        for kind in (bytes, bytearray, memoryview):
            for size, length in sizes:
                data = os.urandom(length)
                sender.send_segments(kind(data), size, *where)
                expected = in_pieces(data, size)
                await heard.until(len(expected))
                assert heard.content() == expected
                assert {address for _, address in heard.received} == {own}
                heard.received.clear()
        sender.send_segments(b"", 10, *where)
        sender.sendto(b"last", *where)
        await heard.until(1)
        assert heard.content() == [b"last"]
        for transport in (sender, receiver):
            transport.close()

    run(main())


@pytest.mark.parametrize("factory", [Singly, Together])
@pytest.mark.parametrize(("size", "count"), [(1200, 200), (7, 500), (20_000, 10), (1472, 44)])
def test_more_than_one_call_sends(run, factory, size, count):
    async def main():
        receiver, heard, sender, _ = await pair(factory)
        before = asyncio.get_running_loop().metrics()
        data = os.urandom(size * count - 3)
        expected = in_pieces(data, size)
        # A few at a time: the receiver's buffer does not hold all.
        for start in range(0, count, 20):
            sender.send_segments(data[start * size : (start + 20) * size], size)
            await heard.until(min(start + 20, count))
        assert heard.content() == expected
        heard.received.clear()
        few = data[: 64 * size][:150_000]
        sender.send_segments(few, size)
        await heard.until(len(in_pieces(few, size)))
        assert heard.content() == in_pieces(few, size)
        after = asyncio.get_running_loop().metrics()
        sent, received = (
            getattr(after, name) - getattr(before, name)
            for name in ("bytes_sent", "bytes_received")
        )
        assert sent == received == len(data) + len(few)
        for transport in (sender, receiver):
            transport.close()

    run(main())


def test_datagrams_that_arrive_together_are_delivered_together(run):
    async def main():
        receiver, heard, sender, _ = await pair(Together)
        if not supports_segments(sender.get_extra_info("socket")):
            pytest.skip("the kernel cannot segment")
        sender.sendto(b"first")  # the transport prepares the socket when it first receives
        await heard.until(1)
        sender.send_segments(bytes(50_000), 1000)
        await heard.until(51)
        assert heard.counts == [1, 50]
        for transport in (sender, receiver):
            transport.close()

    run(main())


def supports_segments(sock):
    try:
        sock.getsockopt(socket.IPPROTO_UDP, 103)
    except OSError:
        return False
    return True


def test_unix_sockets(run):
    """The kernel does not segment there."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def main():
        receiver, heard = await endpoint(Together, sock=ends[0])
        sender, protocol = await endpoint(sock=ends[1])
        receiver.sendto(b"unused")
        data = os.urandom(100_001)
        sender.set_write_buffer_limits(high=1000)
        sender.send_segments(data, 1000)
        assert protocol.calls == ["pause"]
        assert sender.get_write_buffer_size() > 0
        await heard.until(101)
        assert heard.content() == in_pieces(data, 1000)
        assert set(heard.counts) == {1}
        async with asyncio.timeout(5):
            while protocol.calls != ["pause", "resume"]:
                await asyncio.sleep(0)
        for transport in (sender, receiver):
            transport.close()

    run(main())


def test_bad_input(run):
    async def main():
        receiver, heard, sender, name = await pair(Singly)
        for size in (0, -1, 65_536, 1 << 40):
            with pytest.raises(ValueError, match="size must be between 1 and 65535"):
                sender.send_segments(b"data", size)
        with pytest.raises(TypeError):
            sender.send_segments(b"data", "1")
        with pytest.raises(TypeError):
            sender.send_segments(b"data")
        with pytest.raises(TypeError, match="data argument must be a bytes-like object, not 'str'"):
            sender.send_segments("data", 1)
        with pytest.raises(ValueError, match="Invalid address: must be None or"):
            sender.send_segments(b"data", 1, ("127.0.0.1", 1))
        # Refused by the kernel: nothing has this port.
        with_errors, errors = await endpoint(local_addr=("127.0.0.1", 0))
        with_errors.send_segments(b"data", 2, ("127.0.0.1", 0))
        await errors.until(2)
        assert [error.errno for error in errors.errors] == [errno.EINVAL] * 2
        sender.send_segments(b"good", 2, name)
        await heard.until(2)
        assert heard.content() == [b"go", b"od"]
        for transport in (sender, receiver, with_errors):
            transport.close()
        sender.send_segments(b"late", 2)
        await asyncio.sleep(0.01)
        assert len(heard.received) == 2

    run(main())


def test_names_of_hosts(run):
    """The socket object looks the name up, for each datagram."""

    async def main():
        receiver, heard, sender, name = await pair(Together, connected=False)
        sender.send_segments(b"abcde", 2, ("localhost", name[1]))
        await heard.until(3)
        assert heard.content() == [b"ab", b"cd", b"e"]
        for transport in (sender, receiver):
            transport.close()

    run(main())


def test_a_protocol_is_replaced(run):
    async def main():
        receiver, heard, sender, _ = await pair(Together)
        sender.send_segments(b"abcd", 2)
        await heard.until(2)
        singly = Singly()
        receiver.set_protocol(singly)
        sender.send_segments(b"efgh", 2)
        await singly.until(2)
        assert singly.content() == [b"ef", b"gh"]
        receiver.set_protocol(heard)
        sender.send_segments(b"ijk", 2)
        await heard.until(4)
        assert heard.content() == [b"ab", b"cd", b"ij", b"k"]
        for transport in (sender, receiver):
            transport.close()

    run(main())


def test_the_method_must_be_in_the_class(run):
    """A mock has every attribute."""

    async def main():
        protocol = mock.MagicMock()
        receiver, _, sender, _ = await pair(lambda: protocol)
        received = asyncio.Event()
        protocol.datagram_received.side_effect = lambda *_: received.set()
        sender.sendto(b"data")
        await asyncio.wait_for(received.wait(), 20)
        protocol.datagram_received.assert_called_once()
        protocol.datagrams_received.assert_not_called()
        for transport in (sender, receiver):
            transport.close()

    run(main())


def test_exceptions_are_reported_and_the_next_are_received(run):
    class Broken(Together):
        def datagrams_received(self, datagrams, address):
            super().datagrams_received(datagrams, address)
            if datagrams[0] == b"ab":
                raise KeyError("broken")

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        receiver, heard, sender, _ = await pair(Broken)
        sender.send_segments(b"abcd", 2)
        sender.send_segments(b"efgh", 2)
        await heard.until(4)
        assert heard.content() == [b"ab", b"cd", b"ef", b"gh"]
        for transport in (sender, receiver):
            transport.close()

    errors = []
    run(main())
    assert [repr(context["exception"]) for context in errors] == ["KeyError('broken')"]


@pytest.mark.parametrize("factory", [Singly, Together])
def test_closing_in_the_call(run, factory):
    class Closing(factory):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            receiver.close()

        def datagrams_received(self, datagrams, address):
            receiver.close()
            for data in datagrams:
                Singly.datagram_received(self, data, address)

    if factory is Singly:
        del Closing.datagrams_received

    async def main():
        nonlocal receiver
        receiver, heard, sender, _ = await pair(Closing)
        sender.send_segments(b"abcd", 2)
        sender.sendto(b"ef")
        await heard.until(1)
        await asyncio.sleep(0.01)
        assert heard.content() in ([b"ab"], [b"ab", b"cd"])
        sender.close()

    receiver = None
    run(main())
