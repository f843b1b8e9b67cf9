"""What a transport sends, written in random pieces and ways, against what was written.

python writes.py SECONDS SEED
"""

import asyncio
import hashlib
import random
import socket
import sys
import time

import ferroloop


class Reader(asyncio.BufferedProtocol):
    """Reads into buffers of changing sizes, and stops now and then."""

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
    """Counts what flow control says."""

    paused = False

    def pause_writing(self):
        assert not self.paused
        self.paused = True

    def resume_writing(self):
        assert self.paused
        self.paused = False


def piece(chance):
    """Data of a type that a transport takes, and its bytes."""
    size = chance.choice((0, 1, 2, 100, 1000, 65536, chance.randrange(300_000)))
    data = chance.randbytes(size)
    return chance.choice((bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))))(
        data
    )


async def conversation(chance):
    """One connection; the number of bytes that went through it."""
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    for end in (left, right):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, chance.choice((1, 10_000, 200_000)))
    transport, _ = await loop.create_connection(Writer, sock=left)
    _, reader = await loop.create_connection(lambda: Reader(chance), sock=right)
    transport.set_write_buffer_limits(chance.choice((None, 0, 1, 100_000)))
    expected, size = hashlib.sha256(), 0

    def note(data):
        nonlocal size
        expected.update(data)
        size += len(data)
        return data

    for _ in range(chance.randrange(1, 60)):
        way = chance.randrange(4)
        if way < 2:
            data = note(piece(chance))
            transport.write(data)
            if isinstance(data, bytearray) and data:
                data[0] ^= 255  # The transport has its own copy of what may change.
        elif way == 2:
            transport.writelines([note(piece(chance)) for _ in range(chance.randrange(40))])
        else:
            await asyncio.sleep(chance.choice((0, 0, 0.001)))
        assert transport.get_write_buffer_size() <= size
    transport.write_eof() if chance.random() < 0.5 else transport.close()
    error = await asyncio.wait_for(reader.closed, 30)
    assert error is None, error
    assert (reader.size, reader.digest.digest()) == (size, expected.digest())
    transport.close()
    return size


async def main(seconds, seed):
    print(f"writes: seed {seed}")
    chance = random.Random(seed)
    count, size, until = 0, 0, time.monotonic() + seconds
    while time.monotonic() < until:
        size += await conversation(chance)
        count += 1
    print(f"writes: {count} connections, {size >> 20} MiB")
    assert count


ferroloop.run(main(float(sys.argv[1]), int(sys.argv[2])))
