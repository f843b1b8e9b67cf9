"""Consecutive large writes, which may be sent in fewer, larger system calls."""

import asyncio
import select
import socket
import struct
import threading
import time

import pytest

#: below and above the high-water mark, and far above the coalescing limit
SIZES = [64_256, 20_000, 150_000, 17_000, 400_000, 3, 64_256]


async def connected(family):
    """The (reader, writer, peer's socket) of one connection."""
    if family == "unix":
        ours, peer = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            peer = server.accept()[0]
    peer.settimeout(10)
    reader, writer = await asyncio.open_connection(sock=ours)
    return reader, writer, peer


class Receiver(threading.Thread):
    """Reads a socket to its end in a thread, so that a blocked loop does not stop it."""

    def __init__(self, peer):
        super().__init__()
        self.peer = peer
        self.received = bytearray()
        self.start()

    def run(self):
        with self.peer:
            while data := self.peer.recv(1 << 20):
                self.received += data


async def all_received(writer, receiver):
    """Close the writer and return everything that arrived."""
    writer.close()
    await writer.wait_closed()
    await asyncio.to_thread(receiver.join)
    return receiver.received


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_everything_arrives_in_order(run, family, kind):
    async def main():
        _, writer, peer = await connected(family)
        receiver = Receiver(peer)
        expected = bytearray()
        for index in range(100):
            data = bytes([index]) * SIZES[index % len(SIZES)]
            expected += data
            if index % 10 == 9:
                writer.writelines([kind(data[:1000]), kind(data[1000:])])
            else:
                writer.write(kind(data))
            await writer.drain()
        assert await all_received(writer, receiver) == expected

    run(main())


def test_a_buffer_may_change_after_writing_it(run):
    """Large ones too: a held-back write is a copy."""

    async def main():
        _, writer, peer = await connected("unix")
        receiver = Receiver(peer)
        expected = bytearray()
        buffer = bytearray(40_000)
        for index in range(50):
            buffer[:] = bytes([index]) * len(buffer)
            expected += buffer
            writer.write(buffer)
            while writer.transport.get_write_buffer_size():
                await asyncio.sleep(0.001)  # asyncio may keep a reference to what it can't send
        assert await all_received(writer, receiver) == expected

    run(main())


def test_backpressure(run):
    """A peer that reads nothing stops a writer that drains once the kernel's buffers are full."""

    async def main():
        _, writer, peer = await connected("unix")
        with peer:
            written = 0

            async def flood():
                nonlocal written
                while True:
                    writer.write(b"x" * 50_000)
                    written += 50_000
                    await writer.drain()

            flooding = asyncio.create_task(flood())
            await asyncio.sleep(0.1)
            before = written
            await asyncio.sleep(0.05)
            assert written == before
            queued = writer.transport.get_write_buffer_size()
            assert 64 * 1024 < queued <= 64 * 1024 + 4 * 50_000
            flooding.cancel()
            writer.transport.abort()

    run(main())


def test_a_reset_ends_the_writer(run):
    async def main():
        _, writer, peer = await connected("tcp")
        for _ in range(3):
            writer.write(b"x" * 20_000)
            await writer.drain()
        await asyncio.to_thread(peer.recv, 1000)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        poll = select.poll()
        poll.register(writer.get_extra_info("socket").fileno(), 0)
        assert poll.poll(10_000), "the reset did not arrive"
        writes = 0
        with pytest.raises(ConnectionError):
            while writes < 1000:
                writes += 1
                writer.write(b"x" * 50_000)
                await writer.drain()
        # Without a reader only the writer notices: immediately, or when held-back data is sent.
        assert writes <= 6
        with pytest.raises(ConnectionError):
            await writer.wait_closed()

    run(main())


def test_a_long_callback_delays_at_most_one_write(run):
    """A coroutine that computes between writes and never has to wait in drain()."""
    size = 20_000

    async def main():
        _, writer, peer = await connected("unix")
        receiver = Receiver(peer)
        for index in range(8):
            writer.write(b"x" * size)
            await writer.drain()
            time.sleep(0.03)
            assert len(receiver.received) >= index * size
        assert len(await all_received(writer, receiver)) == 8 * size

    run(main())
