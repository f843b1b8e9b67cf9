"""Datagram transports: UDP over IPv4 and IPv6, and UNIX."""

import asyncio
import socket

import pytest

from ..support.protocols import DatagramRecorder

HOSTS = ["127.0.0.1", "::1"]


async def endpoint(**options):
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(DatagramRecorder, **options)


async def finish(*transports):
    for transport in transports:
        protocol = transport.get_protocol()
        transport.close()
        assert await protocol.lost is None


@pytest.mark.parametrize("host", HOSTS)
def test_connected_and_not(run, host):
    async def main():
        server, heard = await endpoint(local_addr=(host, 0))
        name = server.get_extra_info("sockname")
        client, answers = await endpoint(remote_addr=name[:2])
        assert isinstance(client, asyncio.Transport)
        assert client.get_extra_info("peername") == name
        assert server.get_extra_info("peername") is None
        own = client.get_extra_info("sockname")
        for data in (b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview")):
            client.sendto(data)
        await heard.until(lambda: len(heard.received) == 3)
        assert heard.received == [(b"bytes", own), (b"bytearray", own), (b"memoryview", own)]
        assert all(type(data) is bytes for data, _ in heard.received)
        # A reply to the received address, to an equal one, and to a shorter tuple.
        server.sendto(b"one", heard.received[0][1])
        server.sendto(b"two", tuple(own))
        server.sendto(b"three", own[:2])
        await answers.until(lambda: len(answers.received) == 3)
        assert answers.received == [(b"one", name), (b"two", name), (b"three", name)]
        client.sendto(b"same", name)
        with pytest.raises(ValueError, match="Invalid address: must be None or"):
            client.sendto(b"other", (host, 1))
        await finish(client, server)
        assert client.get_extra_info("peername") == name

    run(main())


def test_many_peers_keep_their_addresses(run):
    async def main():
        server, heard = await endpoint(local_addr=("127.0.0.1", 0))
        name = server.get_extra_info("sockname")
        clients = [await endpoint(remote_addr=name) for _ in range(40)]
        for number in range(5):
            for transport, _ in clients:
                transport.sendto(b"%d" % number)
        await heard.until(lambda: len(heard.received) == 200)
        for data, address in heard.received:
            server.sendto(data, address)
        for _, protocol in clients:
            await protocol.until(lambda p=protocol: len(p.received) == 5)
            assert [data for data, _ in protocol.received] == [b"0", b"1", b"2", b"3", b"4"]
        await finish(server, *(transport for transport, _ in clients))

    run(main())


def test_more_peers_than_are_cached(run):
    async def main():
        server, heard = await endpoint(local_addr=("127.0.0.1", 0))
        name = server.get_extra_info("sockname")
        peers = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(300)]
        try:
            for peer in peers:
                peer.bind(("127.0.0.1", 0))
                peer.settimeout(20)
            for number in range(2):
                heard.received.clear()
                for count, peer in enumerate(peers, 1):
                    peer.sendto(b"%d" % number, name)
                    if count % 20 == 0:
                        await heard.until(lambda count=count: len(heard.received) == count)
                assert [address for _, address in heard.received] == [
                    peer.getsockname() for peer in peers
                ]
                # The newest address first, then the earlier ones.
                for data, address in reversed(heard.received):
                    server.sendto(data, address)
                for peer in peers:
                    assert peer.recvfrom(10) == (b"%d" % number, name)
        finally:
            for peer in peers:
                peer.close()
        await finish(server)

    run(main())


def test_sizes(run):
    async def main():
        server, heard = await endpoint(local_addr=("127.0.0.1", 0))
        client, sent = await endpoint(remote_addr=server.get_extra_info("sockname"))
        for size in (1, 1000, 65_507):
            client.sendto(bytes(size))
            await heard.until(lambda n=size: heard.received and len(heard.received[-1][0]) == n)
        client.sendto(bytes(70_000))
        await sent.until(lambda: sent.errors)
        assert "Message too long" in str(sent.errors[0])
        client.sendto(b"still open")
        await heard.until(lambda: heard.received[-1][0] == b"still open")
        await finish(client, server)

    run(main())


def test_a_refused_datagram_keeps_the_transport_open(run):
    async def main():
        server, _ = await endpoint(local_addr=("127.0.0.1", 0))
        name = server.get_extra_info("sockname")
        client, protocol = await endpoint(remote_addr=name)
        await finish(server)
        client.sendto(b"anyone?")
        await protocol.until(lambda: protocol.errors)
        assert type(protocol.errors[0]) is ConnectionRefusedError
        server, heard = await endpoint(local_addr=name)
        client.sendto(b"again")
        await heard.until(lambda: heard.received)
        await finish(client, server)

    run(main())


@pytest.mark.parametrize("bad", ["text", None, 5, [b"list"]])
def test_invalid_data(run, bad):
    async def main():
        transport, _ = await endpoint(local_addr=("127.0.0.1", 0))
        with pytest.raises(TypeError, match="data argument must be a bytes-like object, not"):
            transport.sendto(bad, transport.get_extra_info("sockname"))
        await finish(transport)

    run(main())


def test_unix(run, tmp_path):
    here, there = str(tmp_path / "here"), str(tmp_path / "there")

    async def main():
        server, heard = await endpoint(local_addr=here, family=socket.AF_UNIX)
        client, answers = await endpoint(local_addr=there, remote_addr=here, family=socket.AF_UNIX)
        client.sendto(b"x" * 100_000)
        await heard.until(lambda: heard.received)
        assert heard.received == [(b"x" * 100_000, there)]
        server.sendto(b"back", there)
        await answers.until(lambda: answers.received)
        assert answers.received == [(b"back", here)]
        await finish(client, server)

    run(main())


@pytest.mark.only("ferroloop")  # asyncio of 3.13 never stops counting some bytes
def test_flow_control(run, tmp_path):
    here = str(tmp_path / "here")

    async def main():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(here)
            client, protocol = await endpoint(remote_addr=here, family=socket.AF_UNIX)
            client.set_write_buffer_limits(high=10_000)
            for number in range(500):
                client.sendto(b"%05d" % number * 200)
            assert protocol.calls == ["pause"]
            assert client.get_write_buffer_size() > 10_000
            receiver.setblocking(False)
            got = []
            while len(got) < 500:
                try:
                    got.append(receiver.recv(2000))
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert got == [b"%05d" % number * 200 for number in range(500)]
            await asyncio.sleep(0)
            assert protocol.calls == ["pause", "resume"]
            await finish(client)

    run(main())


def test_close_flushes_and_abort_does_not(run, tmp_path):
    here = str(tmp_path / "here")

    async def main(method):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(here)
            receiver.setblocking(False)
            client, protocol = await endpoint(remote_addr=here, family=socket.AF_UNIX)
            for _ in range(300):
                client.sendto(bytes(1000))
            waiting = client.get_write_buffer_size() > 0
            getattr(client, method)()
            count = 0
            while not protocol.lost.done() or count < (300 if method == "close" else 1):
                try:
                    receiver.recv(2000)
                    count += 1
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert waiting
            return count

    assert run(main("close")) == 300
    (tmp_path / "here").unlink()
    assert run(main("abort")) < 300


def test_exceptions_in_the_protocol(run, flavour):
    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        server, protocol = await endpoint(local_addr=("127.0.0.1", 0))
        failing = [True]
        original = protocol.datagram_received

        def received(data, address):
            if failing:
                failing.clear()
                raise ZeroDivisionError
            original(data, address)

        protocol.datagram_received = received
        name = server.get_extra_info("sockname")
        client, _ = await endpoint(remote_addr=name)
        client.sendto(b"one")
        while not reported:
            await asyncio.sleep(0)
        client.sendto(b"two")
        await protocol.until(lambda: protocol.received)
        assert not server.is_closing()
        assert type(reported[0]["exception"]) is ZeroDivisionError
        assert "_read_ready" in reported[0]["message"]
        await finish(client, server)
        reported.clear()

    run(main())


@pytest.mark.only("ferroloop")  # asyncio treats a socket whose peer has no name as not connected
@pytest.mark.parametrize("address", [(), (None,)], ids=["no address", "None"])
def test_a_pair_needs_no_addresses(run, address):
    async def main():
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one, answers = await endpoint(sock=here)
        other, heard = await endpoint(sock=there)
        # More than the socket accepts at once.
        for number in range(1000):
            one.sendto(b"%d" % number, *address)
        assert one.get_write_buffer_size() > 0
        await heard.until(lambda: len(heard.received) == 1000)
        assert [data for data, _ in heard.received] == [b"%d" % n for n in range(1000)]
        other.sendto(b"back", *address)
        await answers.until(lambda: answers.received)
        assert answers.received == [(b"back", None)]
        await finish(one, other)

    run(main())


def test_non_contiguous_memory_ends_the_transport(run):
    async def main():
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
        client, protocol = await endpoint(local_addr=("127.0.0.1", 0))
        own = client.get_extra_info("sockname")
        assert client.sendto(memoryview(b"abcdef")[::2], own) is None
        error = await protocol.lost
        assert type(error) is BufferError
        assert str(error) == "memoryview: underlying buffer is not C-contiguous"
        assert [report["message"] for report in reports] == [
            "Fatal write error on datagram transport"
        ]

    run(main())


def test_non_contiguous_memory_can_be_queued(run, tmp_path):
    here = str(tmp_path / "here")

    async def main():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(here)
            receiver.setblocking(False)
            client, _ = await endpoint(remote_addr=here, family=socket.AF_UNIX)
            count = 0
            while client.get_write_buffer_size() == 0:
                client.sendto(b"-")
                count += 1
            client.sendto(memoryview(b"abcdef")[::2])
            got = []
            while len(got) <= count:
                try:
                    got.append(receiver.recv(2000))
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert got == [*[b"-"] * count, b"ace"]
            await finish(client)

    run(main())
