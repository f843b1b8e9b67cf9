"""The connections: what each end sends, how it ends, and what the other end must see."""

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field

from ..support.peers import reset

HEADER = 8  # The number of the connection, which the client sends first.
PATTERN = random.Random(1).randbytes(65_521)
LINGER = struct.pack("ii", 1, 0)

SIZES = (0, 1, 1000, 20_000, 70_000, 300_000, 1_000_000)
WEIGHTS = (2, 2, 6, 6, 4, 3, 1)


def pattern(start: int, size: int) -> bytes:
    """`size` bytes of an endless sequence, from `start`."""
    start %= len(PATTERN)
    repeated = PATTERN * (1 + (start + size) // len(PATTERN))
    return repeated[start : start + size]


@dataclass(eq=False)
class End:
    """One end of a connection: its plan and its state."""

    connection: "Connection"
    origin: int  # Where its data begins in the pattern.
    send: int = 0
    # After sending: "eof" half-closes, "close" closes with data still buffered, "wait" waits for
    # the other end; "abort" and "reset" end the connection after `cut` bytes.
    finish: str = "wait"
    cut: int = 0
    sent: int = 0
    received: int = 0
    losses: int = 0

    @property
    def other(self) -> "End":
        client, server = self.connection.ends
        return server if self is client else client

    @property
    def has_all(self) -> bool:
        return self.received == self.other.send

    def may_close(self) -> bool:
        """Without half-closes, the end that has sent and received everything closes."""
        all_sent = self.sent == self.send and self.finish == "wait"
        return all_sent and self.has_all and self.other.finish == "wait"

    def piece(self, chance: random.Random) -> bytes:
        """The next piece to send."""
        left = (self.cut or self.send) - self.sent
        size = min(left, chance.choice((1, 100, 5000, 20_000, 100_000)))
        data = pattern(self.origin + self.sent, size)
        self.sent += size
        return data

    def take(self, data: bytes) -> None:
        """Check received data: it must be what the other end sends next."""
        if data != pattern(self.other.origin + self.received, len(data)):
            self.connection.fail("other bytes than those that were sent")
        self.received += len(data)

    def end(self) -> None:
        """The transport is lost."""
        self.losses += 1
        if self.losses > 1:
            self.connection.fail("connection_lost() was called twice")
        self.connection.check_done()


@dataclass(eq=False)
class Connection:
    """Two ends and the scenario they follow."""

    number: int
    scenario: str
    report: Counter
    server_known: bool = False
    ends: tuple[End, End] = field(init=False)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ends = (End(self, self.number * 7919), End(self, self.number * 104_729 + 1))

    @property
    def is_broken(self) -> bool:
        return self.scenario in ("abort", "reset")

    def fail(self, what: str) -> None:
        self.report[f"{self.scenario}: {what}"] += 1

    def check_done(self) -> None:
        client, server = self.ends
        # The number of an aborted connection may never have arrived.
        if client.losses and (server.losses or (self.is_broken and not self.server_known)):
            self.done.set()

    def check_bytes(self) -> None:
        """After an orderly end, check that all data arrived."""
        for end in self.ends:
            if not self.is_broken and not end.has_all:
                self.fail(f"{end.received} of {end.other.send} bytes arrived")


def plan(connection: Connection, chance: random.Random) -> None:
    """Choose what the ends do."""
    client, server = connection.ends
    for end in connection.ends:
        [end.send] = chance.choices(SIZES, WEIGHTS)
    if connection.scenario == "half-close":
        client.finish = server.finish = "eof"
    elif connection.scenario == "close":
        closing = chance.choice(connection.ends)
        closing.finish, closing.other.send = "close", 0
    elif connection.is_broken:
        breaking = chance.choice(connection.ends)
        breaking.finish = connection.scenario
        breaking.cut = 1 + chance.randrange(1 + breaking.send)
        breaking.send = max(breaking.send, breaking.cut)


def narrow(chance: random.Random, end: socket.socket) -> None:
    """Give some sockets small buffers."""
    if chance.random() < 0.4:
        size = chance.choice((1, 10_000, 60_000))
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    # Buffers smaller than a segment of the loopback interface make TCP wait for its timers.
    if chance.random() < 0.1:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, chance.choice((70_000, 200_000)))


class Talker(asyncio.Protocol):
    """An end on a transport: a producer that keeps writing inside the transport's callbacks."""

    def __init__(self, traffic, end: End | None = None) -> None:
        self.traffic, self.end = traffic, end
        self.chance = random.Random(traffic.chance.random())
        self.paused = self.resuming = self.finished = self.half_closed = False
        self.unread = bytearray()

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.traffic.made += 1
        narrow(self.chance, transport.get_extra_info("socket"))
        # Not 0: with that, asyncio's TLS stays paused forever.
        transport.set_write_buffer_limits(self.chance.choice((None, 1, 1000, 200_000)))
        if self.end is not None:
            transport.write(self.end.connection.number.to_bytes(HEADER))
            self.produce()

    def produce(self) -> None:
        """Write pieces until told to pause, or a few more; or continue a little later."""
        if self.finished or self.end is None:
            return
        end = self.end
        while end.sent < (end.cut or end.send):
            if self.transport.is_closing() or (self.paused and self.chance.random() < 0.9):
                return
            if self.chance.random() < 0.2:
                # Early releases of asyncio keep an empty last piece forever.
                pieces = [end.piece(self.chance), end.piece(self.chance)]
                self.transport.writelines([piece for piece in pieces if piece])
            else:
                self.transport.write(end.piece(self.chance))
            if self.chance.random() < 0.1:
                delay = self.chance.choice((0, 0.001, 0.02))
                asyncio.get_running_loop().call_later(delay, self.produce)
                return
        self.finished = True
        loop = asyncio.get_running_loop()
        if self.resuming and isinstance(loop, asyncio.SelectorEventLoop):
            # asyncio calls connection_lost() twice if resume_writing() ends a transport.
            loop.call_soon(self.finish)
        else:
            self.finish()

    def finish(self) -> None:
        transport, how = self.transport, self.end.finish
        if how == "reset":
            with contextlib.suppress(OSError):
                transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, LINGER
                )
        if how in ("abort", "reset"):
            transport.abort()
        elif how == "close" or self.half_closed or self.end.may_close():
            transport.close()
        elif how == "eof":
            transport.write_eof()

    def data_received(self, data: bytes) -> None:
        if self.end is None:
            self.unread += data
            if len(self.unread) < HEADER:
                return
            self.end = self.traffic.server_end(int.from_bytes(self.unread[:HEADER]))
            data = bytes(self.unread[HEADER:])
            self.produce()
        self.end.take(data)
        if self.chance.random() < 0.1 and not self.transport.is_closing():
            self.transport.pause_reading()
            delay = self.chance.choice((0, 0.001, 0.05))
            asyncio.get_running_loop().call_later(delay, self.read_on)
        elif self.chance.random() < 0.1:
            self.produce()
        if self.end.may_close():
            self.transport.close()

    def read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        self.half_closed = True
        # In a half-closed connection the rest is sent, then the transport is closed.
        if self.end is None or self.end.finish != "eof":
            return False
        if not self.finished:
            self.produce()
            return True
        return False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused, self.resuming = False, True
        self.produce()
        self.resuming = False

    def connection_lost(self, error: Exception | None) -> None:
        self.traffic.lost += 1
        if self.end is not None:
            self.end.end()


async def talk(traffic, reader, writer, end: End | None) -> None:
    """The same with asyncio's streams."""
    chance = random.Random(traffic.chance.random())
    traffic.made += 1
    narrow(chance, writer.get_extra_info("socket"))
    try:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if end is None:
                end = traffic.server_end(int.from_bytes(await reader.readexactly(HEADER)))
            else:
                writer.write(end.connection.number.to_bytes(HEADER))
            async with asyncio.TaskGroup() as group:
                group.create_task(suppressing(write, writer, end, chance))
                group.create_task(suppressing(read, reader, end, chance))
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        traffic.lost += 1
        if end is not None:
            end.end()


async def suppressing(work, *arguments) -> None:
    with contextlib.suppress(ConnectionError):
        await work(*arguments)


async def write(writer, end: End, chance: random.Random) -> None:
    while end.sent < (end.cut or end.send):
        if writer.is_closing():
            return
        writer.write(end.piece(chance))
        if chance.random() < 0.7:
            await writer.drain()
        if chance.random() < 0.05:
            await asyncio.sleep(chance.choice((0, 0.001, 0.02)))
    if end.finish == "eof":
        writer.write_eof()
    elif end.finish == "close":
        writer.close()
    elif end.finish != "wait":
        if end.finish == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        writer.transport.abort()


async def read(reader, end: End, chance: random.Random) -> None:
    while not end.may_close():
        data = await reader.read(chance.choice((1000, 65_536, 1 << 20)))
        if not data:
            return
        end.take(data)
        if chance.random() < 0.05:
            await asyncio.sleep(chance.choice((0, 0.001, 0.05)))


async def talk_raw(traffic, client: socket.socket, end: End) -> None:
    """The same with a plain socket, which half-closes by shutdown()."""
    loop, chance = asyncio.get_running_loop(), random.Random(traffic.chance.random())
    traffic.made += 1
    narrow(chance, client)

    async def sending() -> None:
        await loop.sock_sendall(client, end.connection.number.to_bytes(HEADER))
        while end.sent < (end.cut or end.send):
            await loop.sock_sendall(client, end.piece(chance))
        if end.finish in ("eof", "close"):
            client.shutdown(socket.SHUT_WR)
        elif end.finish != "wait":
            receiver.cancel()

    async def receiving() -> None:
        while not end.may_close():
            data = await loop.sock_recv(client, chance.choice((1000, 65_536)))
            if not data:
                return
            end.take(data)
            if chance.random() < 0.05:
                await asyncio.sleep(chance.choice((0, 0.001, 0.05)))

    receiver = asyncio.ensure_future(suppressing(receiving))
    await suppressing(sending)
    await asyncio.wait([receiver])
    if end.finish == "reset":
        reset(client)
    client.close()
    traffic.lost += 1
    end.end()
