"""Transports whose protocols act inside their callbacks, driven step by step.

A `Link` is a transport, its protocol and the peer's socket, all in one thread. After every step
the poller must have registered exactly what the links want; any deviation is recorded as a fault
of the run, for the test to judge.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable

from .registrations import Registrations
from .turns import turns_with_polls

TURNS = 8

# Turns without any arriving data after which a connection that should end counts as stuck.
PATIENCE = 300
ERRORS = (OSError, RuntimeError, TypeError, AttributeError)

# (name, size): what a callback, or the program between two turns, does.
Action = tuple[str, int]
Reactions = dict[str, list[list[Action]]]


class Link:
    """One transport under test, the log of its events, and its peer."""

    def __init__(self, peer: socket.socket | None, reactions: Reactions, keep_open: bool) -> None:
        self.peer = peer
        self.reactions = {name: deque(lists) for name, lists in reactions.items()}
        self.keep_open = keep_open
        self.log: list[tuple] = []
        self.flow: list[object] = []  # When exactly a buffer is full depends on the system, too.
        self.faults: list[str] = []
        self.answers: list[object] = []
        self.written, self.at_peer = bytearray(), bytearray()
        self.transport: asyncio.Transport | None = None
        self.fd = -1
        self.counter = 0
        self.to_pump = 0
        self.writing_paused = False
        self.lines = 0
        self.paused = False
        # The peer has half-closed: there is nothing to read until reading is resumed.
        self.half_open = False
        # Bytes that must arrive, because they were written before close() and write_eof(); what is
        # written after close() may arrive. Nothing has to if the connection was aborted.
        self.due, self.broken = 0, False
        self.written_before_loss = 0
        # Bytes from the peer that were not received yet. If a TCP connection is closed with such
        # bytes pending, the system resets it, and data in flight to the peer is lost.
        self.unread = 0
        self.over_tcp = False

    def note(self, *entry: object) -> None:
        # How data is split into pieces depends on the system.
        if self.lost:
            self.faults.append(f"{entry[1]} after connection_lost()")
        if entry[1] in ("pause", "resume"):
            # Including what is left to pump: how much fits before a pause depends on the system.
            self.flow.append((entry[1], self.to_pump))
        elif entry[1] == "data" and self.log and self.log[-1][:2] == entry[:2]:
            self.log[-1] = (*entry[:2], self.log[-1][2] + entry[2])
        else:
            self.log.append(entry)

    @property
    def lost(self) -> bool:
        return any(entry[1] == "lost" for entry in self.log)

    def react(self, callback: str) -> None:
        """Do what the plan says for this call of the callback."""
        if lists := self.reactions.get(callback):
            for action in lists.popleft():
                self.act(*action, inside=callback)
        if callback == "resume" and self.to_pump:
            self.act("pump", 0, inside=callback)

    def write(self, size: int) -> None:
        self.counter += 1
        data = bytes([self.counter % 251]) * size
        self.flow.append("write")  # Of several writes, a different one may fill the buffer.
        closing = self.transport.is_closing()  # May flush held writes, and call pause_writing().
        before = len(self.written)
        self.written += data  # First: the transport may call pause_writing(), which writes more.
        try:
            self.transport.write(data)
        except ERRORS:
            # Only its own bytes: pause_writing() may have written more, and ended the stream.
            del self.written[before : before + size]
            raise
        if not closing:
            self.due = max(self.due, before + size)

    def pump(self) -> None:
        """Write pieces until told to pause, like a producer that obeys flow control."""
        while self.to_pump and not self.writing_paused:
            self.to_pump -= 1
            self.write(20_000)

    def act(self, name: str, size: int, inside: str = "") -> None:
        """Perform one action on the transport; errors are recorded."""
        transport = self.transport
        self.broken |= name == "abort"
        try:
            if name == "write":
                self.write(size)
            elif name == "write_twice":
                self.write(size)
                self.write(size // 2)
            elif name == "writelines":
                self.counter += 1
                data = bytes([self.counter % 251]) * min(size, 100)
                # asyncio's writelines() raises TypeError after close() from 3.12 on.
                if data and not transport.is_closing():
                    self.lines += 2 * len(data)
                    before = len(self.written)
                    self.written += data * 2  # First, as in write().
                    transport.writelines([data, memoryview(data)])
                    self.due = max(self.due, before + 2 * len(data))
            elif name == "pump":
                self.to_pump += size // 20_000
                self.pump()
            elif name == "limits":
                transport.set_write_buffer_limits(high=size)
            elif name == "set_protocol":
                transport.set_protocol(Buffered(self, "second"))
            elif name == "pause_reading":
                if not transport.is_closing():
                    self.paused = True
                transport.pause_reading()
            elif name == "resume_reading":
                if self.paused and not transport.is_closing():
                    self.half_open = self.paused = False
                transport.resume_reading()
            else:
                getattr(transport, name)()
        except ERRORS as error:
            self.answers.append((name, inside, type(error).__name__, str(error)))

    def act_as_peer(self, name: str, size: int) -> None:
        try:
            if name == "peer_send":
                self.over_tcp = getattr(self.peer, "family", None) == socket.AF_INET
                sent = self.peer.send(b"p" * size)
                self.unread += sent
                self.answers.append(sent)
            elif name == "peer_read":
                self.read_as_peer(size)
            elif name == "peer_shutdown":
                self.peer.shutdown(socket.SHUT_WR)
            elif name == "peer_close":
                self.broken = True
                self.peer.close()
        except OSError as error:
            self.answers.append((name, type(error).__name__))

    def read_as_peer(self, limit: int) -> None:
        """Read up to `limit` bytes from the socket."""
        while limit > 0 and self.peer.fileno() >= 0:
            try:
                data = self.peer.recv(min(65536, limit))
            except OSError:
                return
            if not data:
                return
            limit -= len(data)
            self.at_peer += data

    def wanted(self) -> set[str]:
        """What the poller has to watch for this transport."""
        if self.lost:
            return set()
        found = set()
        if self.transport.is_reading() and not self.half_open:
            found.add("read")
        if self.transport.get_write_buffer_size():
            found.add("write")
        return found

    def flow_control_fault(self) -> str | None:
        """What is wrong with pause_writing() and resume_writing(), judged by the buffer's size."""
        if self.lost:
            return None
        size = self.transport.get_write_buffer_size()
        _, high = self.transport.get_write_buffer_limits()
        # Early releases of asyncio do not pause the protocol in writelines().
        if not self.writing_paused and size > high + self.lines:
            return f"{size} bytes are buffered, the protocol may write on"
        if self.writing_paused and size == 0:
            return "nothing is buffered, the protocol may not write"
        return None

    def arrived_as_written(self) -> bool:
        """Whether what the peer has read is the beginning of what was written."""
        return self.written.startswith(self.at_peer)

    def wrong_at_the_end(self) -> list[str]:
        """The faults found once the connection has ended and the peer has read everything."""
        found = list(self.faults)
        if not self.lost:
            found.append("connection_lost() was not called")
        if not self.arrived_as_written():
            found.append("other bytes than those that were written arrived")
        elif self.lost and len(self.at_peer) > self.written_before_loss:
            found.append("bytes written in connection_lost() arrived")
        elif self.over_tcp and self.unread:
            pass
        elif not self.broken and len(self.at_peer) < self.due:
            found.append(f"{len(self.at_peer)} of {self.due} bytes arrived")
        return found

    def look(self) -> None:
        """Record the visible state of the transport, and the end of a step."""
        self.flow.append("step")
        transport = self.transport
        self.answers.append((transport.is_closing(), transport.is_reading()))


class Reacting(asyncio.Protocol):
    """Records its callbacks, and does what the link's plan says."""

    def __init__(self, link: Link, name: str = "first") -> None:
        self.link, self.name = link, name

    def connection_made(self, transport) -> None:
        self.link.transport = transport
        self.link.note(self.name, "made")
        self.link.react("made")

    def data_received(self, data: bytes) -> None:
        self.link.unread -= len(data)
        self.link.note(self.name, "data", bytes(data))
        self.link.react("data")

    def eof_received(self) -> bool:
        self.link.note(self.name, "eof")
        self.link.react("eof")
        self.link.half_open = self.link.keep_open
        return self.link.keep_open

    def pause_writing(self) -> None:
        self.link.note(self.name, "pause")
        if self.link.writing_paused:
            self.link.faults.append("pause_writing() was called twice")
        self.link.writing_paused = True
        self.link.react("pause")

    def resume_writing(self) -> None:
        self.link.note(self.name, "resume")
        if not self.link.writing_paused:
            self.link.faults.append("resume_writing() was called twice")
        self.link.writing_paused = False
        self.link.react("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.link.note(self.name, "lost", type(error).__name__)
        self.link.broken |= error is not None
        self.link.written_before_loss = len(self.link.written)
        self.link.react("lost")


class Buffered(Reacting, asyncio.BufferedProtocol):
    """The same with its own buffer."""

    def __init__(self, link: Link, name: str) -> None:
        super().__init__(link, name)
        self.buffer = bytearray(5000)

    def get_buffer(self, hint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, length: int) -> None:
        self.data_received(self.buffer[:length])


# Opens a link for a test: its transport exists, and `connection_made()` was called.
Opener = Callable[[Reactions, bool], Awaitable[Link]]


class Scene:
    """Several links on the running loop."""

    def __init__(self, opener: Opener, registrations: Registrations, pause: float = 0) -> None:
        # `pause`: seconds between turns, where the system needs time to transfer the bytes.
        self.opener, self.registrations, self.pause = opener, registrations, pause
        self.links: list[Link] = []
        self.faults: list[str] = []

    async def open(self, reactions: Reactions, keep_open: bool) -> None:
        async with asyncio.timeout(2):
            link = await self.opener(reactions, keep_open)
        for earlier in self.links:
            # The number of the closed descriptor now refers to another file.
            if earlier.fd == link.fd:
                earlier.fd = -1
        self.links.append(link)

    def check(self, step: object) -> None:
        """Compare what the poller has registered with what the links want."""
        found = self.registrations()
        wanted = {link.fd: link.wanted() for link in self.links if link.fd >= 0}
        wanted = {fd: directions for fd, directions in wanted.items() if directions}
        if found != wanted:
            self.faults.append(f"after {step}: registered {found}, wanted {wanted}")
        for number, link in enumerate(self.links):
            if link.fd >= 0 and (fault := link.flow_control_fault()):
                self.faults.append(f"link {number}: after {step}: {fault}")

    async def turn(self, turns: int = TURNS) -> None:
        await turns_with_polls(turns)

    async def step(self, which: int, name: str, size: int) -> None:
        link = self.links[which % len(self.links)]
        if name.startswith("peer_"):
            link.act_as_peer(name, size)
        else:
            link.act(name, size)
        if name == "peer_drain":
            await self.drain(link)
        # A write that is held until its callback returns notices later that the peer is gone.
        is_late = link.broken and not name.startswith("peer_")
        if not is_late:
            link.look()
        await self.turn()
        if is_late:
            link.look()
        self.check((which, name, size))

    async def drain(self, link: Link) -> None:
        """Read as the peer until no more data arrives."""
        before = -1
        while len(link.at_peer) > before:
            before = len(link.at_peer)
            link.read_as_peer(1 << 20)
            await self.turn(4)

    async def finish(self, patiently: bool) -> None:
        """Run to the end: everything written arrives, and each connection is lost once.

        `patiently`: everything arrives before the program closes the transports.
        """
        if patiently:
            for link in self.links:
                await self.drain(link)
            self.check("draining all")
        for link in self.links:
            link.transport.close()
        arrived, idle = 0, 0
        while idle < PATIENCE and not all(link.lost for link in self.links):
            for link in self.links:
                link.read_as_peer(1 << 20)
            await asyncio.sleep(self.pause)
            before, arrived = arrived, sum(len(link.at_peer) for link in self.links)
            idle = idle + 1 if arrived == before else 0
        await self.turn()
        for number, link in enumerate(self.links):
            link.read_as_peer(1 << 22)
            self.faults += [f"link {number}: {fault}" for fault in link.wrong_at_the_end()]
        self.check("the end")
        self.clean_up()

    def clean_up(self) -> None:
        """Release what a faulty loop left behind."""
        loop = asyncio.get_running_loop()
        for fd in self.registrations():
            try:
                os.fstat(fd)
            except OSError:
                continue
            self.faults.append(f"descriptor {fd} is still watched")
        for link in self.links:
            link.peer.close()
            if not link.lost:
                link.transport.abort()
        loop.call_soon(lambda: None)
