"""Protocols that record their callbacks."""

import asyncio


class Recorder(asyncio.Protocol):
    """Records every call; `done` is set when the connection is lost."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received = bytearray()
        self.transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.made: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[BaseException | None] = loop.create_future()
        self.changed = asyncio.Event()

    def note(self, call: str) -> None:
        self.calls.append(call)
        self.changed.set()

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.note("made")
        if not self.made.done():
            self.made.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.calls[-1] != "data":
            self.calls.append("data")
        self.changed.set()

    def eof_received(self):
        self.note("eof")

    def connection_lost(self, error) -> None:
        self.note("lost")
        if not self.done.done():
            self.done.set_result(error)

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    async def until(self, condition) -> None:
        """Wait until the condition holds; it is checked after every call."""
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class BufferedRecorder(asyncio.BufferedProtocol):
    """Like Recorder, but receives into its own buffer."""

    def __init__(self, size: int = 1024) -> None:
        self.buffer = bytearray(size)
        self.hints: list[int] = []
        self.received = bytearray()
        self.updates: list[int] = []
        self.transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[BaseException | None] = loop.create_future()
        self.eof = loop.create_future()
        self.changed = asyncio.Event()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.updates.append(nbytes)
        self.received += self.buffer[:nbytes]
        self.changed.set()

    def eof_received(self):
        self.eof.set_result(None)

    def connection_lost(self, error) -> None:
        self.done.set_result(error)

    until = Recorder.until


class DatagramRecorder(asyncio.DatagramProtocol):
    """Keeps what a datagram transport has told it."""

    def __init__(self):
        self.received: list[tuple[bytes, object]] = []
        self.errors: list[OSError] = []
        self.calls: list[str] = []
        self.changed = asyncio.Event()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.received.append((data, address))
        self.changed.set()

    def error_received(self, error):
        self.errors.append(error)
        self.changed.set()

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")

    def connection_lost(self, error):
        self.lost.set_result(error)

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()
