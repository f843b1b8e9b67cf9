"""Compares the bytes that a transport sends with those written, in random pieces and ways.

The writer also writes inside the transport's callbacks and continues while it is closed or aborted,
and the next connection reuses the descriptor number. At the end of each round the poller must watch
nothing; at intervals the test checks that the idle loop sleeps.

python writes.py SECONDS SEED
"""

import asyncio
import hashlib
import random
import socket
import sys
import time
from pathlib import Path

import ferroloop

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.support.registrations import Registrations, assert_sleeps


class Reader(asyncio.BufferedProtocol):
    """Reads into buffers of varying sizes, and sometimes pauses reading."""

    def __init__(self, chance):
        self.chance = chance
        self.digest, self.size = hashlib.sha256(), 0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, hint):
        self.buffer = bytearray(self.chance.choice((1, 7, 4096, 100_000)))
        return self.buffer

    def buffer_updated(self, count):
        self.digest.update(self.buffer[:count])
        self.size += count
        if self.chance.random() < 0.05:
            self.transport.pause_reading()
            delay = self.chance.random() * 0.002
            asyncio.get_running_loop().call_later(delay, self.transport.resume_reading)

    def connection_lost(self, error):
        self.closed.set_result(error)


class Writer(asyncio.Protocol):
    """Checks the calls of flow control; a producer that continues to write when it is resumed."""

    paused = False

    def __init__(self, chance):
        self.chance = chance
        self.expected, self.size = hashlib.sha256(), 0
        self.lost = asyncio.get_running_loop().create_future()
        # The callbacks in which it writes, the number of pieces, how it ends, and after how many.
        self.inside = {"pause": 0.1, "resume": chance.choice((0, 0.5, 1)), "data": 0.5}
        self.left = chance.choice((0, 0, 10, 100))
        self.end, self.until = chance.choice(("", "", "close", "abort", "write_eof")), 0
        if self.end:
            self.until = chance.randrange(1 + self.left)
        self.broken = self.ended = self.eof = False
        self.unread = 0

    def connection_made(self, transport):
        self.transport = transport

    def note(self, data):
        """Expect written data to arrive, unless the transport is closing."""
        if not self.ended:
            self.expected.update(data)
            self.size += len(data)
        return data

    def produce(self, callback):
        if self.chance.random() >= self.inside[callback]:
            return
        for _ in range(self.chance.randrange(1, 5)):
            if not self.left or (self.paused and callback != "pause") or self.ended:
                return
            self.left -= 1
            self.transport.write(self.note(piece(self.chance)))
            if self.end and self.left == self.until:
                self.finish(self.end)

    def finish(self, how):
        if not self.ended:
            self.ended, self.broken, self.eof = True, how == "abort", how == "write_eof"
            getattr(self.transport, how)()

    def data_received(self, data):
        self.unread -= len(data)
        self.produce("data")

    def pause_writing(self):
        assert not self.paused
        self.paused = True
        self.produce("pause")

    def resume_writing(self):
        assert self.paused
        self.paused = False
        self.produce("resume")

    def connection_lost(self, error):
        self.lost.set_result(error)
        if not self.eof:
            self.transport.write(b"after the end")


def piece(chance):
    """Random data, of a random type that a transport accepts."""
    size = chance.choice((0, 1, 2, 100, 1000, 65536, chance.randrange(300_000)))
    data = chance.randbytes(size)
    return chance.choice((bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))))(
        data
    )


async def conversation(chance):
    """Run one connection; return the number of bytes that it transferred."""
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    for end in (left, right):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, chance.choice((1, 10_000, 200_000)))
    transport, writer = await loop.create_connection(lambda: Writer(chance), sock=left)
    _, reader = await loop.create_connection(lambda: Reader(chance), sock=right)
    transport.set_write_buffer_limits(chance.choice((None, 0, 1, 100_000)))
    for _ in range(chance.randrange(1, 60)):
        if writer.ended:
            break
        way = chance.randrange(5)
        if way < 2:
            data = writer.note(piece(chance))
            transport.write(data)
            if isinstance(data, bytearray) and data:
                data[0] ^= 255  # The transport must have copied a mutable buffer.
        elif way == 2:
            pieces = [piece(chance) for _ in range(chance.randrange(40))]
            for data in pieces:
                writer.note(data)
            transport.writelines(pieces)
        elif way == 3:
            reader.transport.write(b"x")
            writer.unread += 1
            # Closing a socket with unread data resets the connection.
            while writer.unread and not writer.ended:
                await asyncio.sleep(0)
            writer.broken |= writer.unread > 0
        else:
            await asyncio.sleep(chance.choice((0, 0, 0.001)))
        assert transport.get_write_buffer_size() <= writer.size
    writer.finish(chance.choice(("write_eof", "close", "close", "abort")))
    error = await asyncio.wait_for(reader.closed, 30)
    assert error is None or writer.broken, error
    if not writer.broken:
        found = (reader.size, reader.digest.digest())
        assert found == (writer.size, writer.expected.digest()), (reader.size, writer.size)
    transport.close()
    await asyncio.wait_for(writer.lost, 30)
    return reader.size


async def main(seconds, seed):
    print(f"writes: seed {seed}")
    chance = random.Random(seed)
    registrations = await Registrations.of_running_loop()
    count, size, until = 0, 0, time.monotonic() + seconds
    while time.monotonic() < until:
        together = chance.choice((1, 1, 5))
        size += sum(await asyncio.gather(*(conversation(chance) for _ in range(together))))
        count += together
        assert registrations() == {}
        if count % 100 == 0:
            await assert_sleeps(0.05)
    await assert_sleeps()
    print(f"writes: {count} connections, {size >> 20} MiB")
    assert count


ferroloop.run(main(float(sys.argv[1]), int(sys.argv[2])))
