"""Writes in turns with many callbacks, which are deferred and sent together when the turn ends."""

import asyncio
import contextvars
import socket
import sys
import threading
import time

import pytest

#: far more callbacks than are needed to defer writes
MANY = 100


class Recorder(asyncio.Protocol):
    """Records how the connection ends."""

    def __init__(self):
        self.lost = []

    def connection_lost(self, exc):
        self.lost.append(exc)


@pytest.fixture
def pairs(loop):
    """A function that makes connected (transport, protocol, peer's socket) triples."""
    made = []

    async def connect(count):
        for _ in range(count):
            ours, peer = socket.socketpair()
            peer.settimeout(10)
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            made.append((transport, protocol, peer))
        return made

    yield connect
    for transport, _, peer in made:
        peer.close()
        transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))


def schedule_among_many(loop, callbacks):
    """Schedule the callbacks among many others, so that they run in one busy turn."""
    for _ in range(MANY // 2):
        loop.call_soon(int)
    for callback in callbacks:
        loop.call_soon(callback)
    for _ in range(MANY // 2):
        loop.call_soon(int)


def test_all_peers_get_replies_in_order(loop, pairs):
    async def main():
        connected = await pairs(60)
        pieces = [b"a" * 10, bytearray(b"b" * 3000), memoryview(b"c" * 5), b"d" * 20_000, b"", b"e"]
        whole = b"".join(pieces)

        def answer(transport):
            for piece in pieces:
                transport.write(piece)
            transport.writelines([b"x", b"y" * 3000])

        schedule_among_many(loop, [lambda t=transport: answer(t) for transport, _, _ in connected])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _, _, peer in connected:
            received = b""
            while len(received) < len(whole) + 3001:
                received += peer.recv(65536)
            assert received == whole + b"x" + b"y" * 3000

    loop.run_until_complete(main())


def test_streams_that_drain(loop):
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data[:1])
            writer.write(data[1:])
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def client(address, number):
        reader, writer = await asyncio.open_connection(*address)
        for turn in range(20):
            message = f"{number} {turn}".encode()
            writer.write(message)
            await writer.drain()
            assert await reader.readexactly(len(message)) == message
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            address = server.sockets[0].getsockname()[:2]
            await asyncio.gather(*[client(address, i) for i in range(MANY)])

    loop.run_until_complete(main())


def test_inspecting_a_transport_flushes_its_writes(loop, pairs):
    async def main():
        connected = await pairs(3)
        seen = []

        def look(transport, peer):
            transport.write(b"first")
            assert transport.get_write_buffer_size() == 0
            seen.append(peer.recv(100))

        def send_by_hand(transport, peer):
            transport.write(b"second ")
            transport.get_extra_info("socket")._sock.send(b"third")
            seen.append(peer.recv(100))

        def replace_protocol(transport, peer):
            transport.write(b"fourth")
            transport.set_protocol(Recorder())
            seen.append(peer.recv(100))

        actions = [look, send_by_hand, replace_protocol]
        schedule_among_many(
            loop,
            [lambda d=do, c=c: d(c[0], c[2]) for do, c in zip(actions, connected, strict=True)],
        )
        await asyncio.sleep(0)
        assert seen == [b"first", b"second third", b"fourth"]

    loop.run_until_complete(main())


@pytest.mark.parametrize("end", ["close", "abort", "write_eof"])
def test_written_data_arrives_before_the_end(loop, pairs, end):
    async def main():
        ((transport, protocol, peer),) = await pairs(1)

        def finish():
            transport.write(b"last words")
            getattr(transport, end)()

        schedule_among_many(loop, [finish])
        await asyncio.sleep(0)
        assert peer.recv(100) == b"last words"
        await asyncio.sleep(0)
        assert peer.recv(100) == b""
        assert protocol.lost == ([] if end == "write_eof" else [None])

    loop.run_until_complete(main())


def test_a_stopped_loop_has_sent_everything(loop, pairs):
    connected = loop.run_until_complete(pairs(40))
    schedule_among_many(
        loop, [lambda t=transport: t.write(b"sent") for transport, _, _ in connected]
    )
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert [peer.recv(100) for _, _, peer in connected] == [b"sent"] * 40


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exception_that_stops_the_loop_loses_nothing(loop, pairs, error):
    connected = loop.run_until_complete(pairs(40))

    def fail():
        raise error

    schedule_among_many(
        loop, [*[lambda t=transport: t.write(b"sent") for transport, _, _ in connected], fail]
    )
    with pytest.raises(error):
        loop.run_forever()
    assert [peer.recv(100) for _, _, peer in connected] == [b"sent"] * 40
    # The callbacks after the exception run in the next turn.
    loop.run_until_complete(asyncio.sleep(0))


def test_the_context_in_which_a_failed_write_ends_the_connection(loop):
    variable = contextvars.ContextVar("variable")
    seen = []

    class Protocol(asyncio.Protocol):
        def connection_lost(self, exc):
            seen.append((type(exc), variable.get(None)))

    async def main():
        ours, peer = socket.socketpair()
        transport, _ = await loop.create_connection(Protocol, sock=ours)
        transport.pause_reading()
        peer.close()

        def write():
            variable.set("of the writer")
            transport.write(b"never read")

        schedule_among_many(loop, [write])
        await asyncio.sleep(0)
        # The failure may only be noticed when the turn has ended.
        await asyncio.sleep(0)
        assert transport.is_closing()
        await asyncio.sleep(0)
        # From 3.15 on the connection has its own context.
        where = None if sys.version_info >= (3, 15) else "of the writer"
        assert seen == [(BrokenPipeError, where)]

    loop.run_until_complete(main())


def test_the_high_water_mark_pauses_the_protocol(loop):
    calls = []

    class Protocol(asyncio.Protocol):
        def pause_writing(self):
            calls.append("pause")

        def resume_writing(self):
            calls.append("resume")

    async def main():
        ours, peer = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport, _ = await loop.create_connection(Protocol, sock=ours)
        transport.set_write_buffer_limits(0)
        with peer:
            schedule_among_many(
                loop, [lambda: transport.write(b"small"), lambda: transport.write(b"x" * 500_000)]
            )
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert calls == ["pause"]
            received = 0
            while received < 500_005:
                received += len(await asyncio.to_thread(peer.recv, 65536))
            while calls == ["pause"]:
                await asyncio.sleep(0.001)
            assert calls == ["pause", "resume"]
            transport.close()
            await asyncio.sleep(0)

    loop.run_until_complete(main())


def test_a_reply_does_not_wait_for_the_end_of_a_long_turn(loop, pairs):
    async def main():
        ((transport, _, peer),) = await pairs(1)
        arrived = []

        def wait():
            peer.recv(100)
            arrived.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        began = time.monotonic()
        loop.call_soon(transport.write, b"answer")
        for _ in range(MANY):
            loop.call_soon(time.sleep, 0.005)
        await asyncio.sleep(0)
        ended = time.monotonic()
        thread.join()
        assert arrived[0] - began < (ended - began) / 2

    loop.run_until_complete(main())


def test_a_manual_turn_sends(loop, pairs):
    """Code that polls inside a callback must see the replies to what it has written."""

    async def main():
        ((transport, _, peer),) = await pairs(1)
        seen = []

        def turn():
            transport.write(b"question")
            loop._selector.select(0)
            seen.append(peer.recv(100))

        schedule_among_many(loop, [turn])
        await asyncio.sleep(0)
        assert seen == [b"question"]

    loop.run_until_complete(main())
