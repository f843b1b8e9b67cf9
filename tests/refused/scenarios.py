"""Small programs, each of which uses one part of the loop and checks every byte.

A scenario may end with any exception, because a failed call may be reported to the program; the
invariants that must hold anyway are in `worker.py`. A scenario must not swallow exceptions, and
registers with `stage` what it creates.
"""

import array
import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

# The period is not a multiple of a page, so that a lost or duplicated piece is noticed.
DATA = b"".join(number.to_bytes(4, "big") for number in range(75_000))


class Corrupted(Exception):
    """The received bytes differ from the sent ones: altered, reordered or duplicated."""


class Ended(Exception):
    """The connection was lost before everything had arrived."""


class Stage:
    """What one run of a scenario creates: cleaned up when the run ends, and checked afterwards."""

    def __init__(self, error: int) -> None:
        self.error = error
        self.peers: list[Peer] = []
        self.cleanup = contextlib.AsyncExitStack()

    def peer(self, *arguments: Any) -> "Peer":
        """A protocol whose life cycle is checked."""
        self.peers.append(Peer(*arguments))
        return self.peers[-1]

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
        """Two connected sockets for `sock_*` calls, closed at the end."""
        ends = socket.socketpair(type=kind)
        for end in ends:
            end.setblocking(False)
            self.cleanup.callback(end.close)
        return ends

    def life_cycle_faults(self) -> list[str]:
        """Faults of peers whose connection_made() and connection_lost() calls do not match."""
        return [f"calls of a protocol: {peer.calls}" for peer in self.peers if not peer.is_over()]


class Peer(asyncio.Protocol, asyncio.DatagramProtocol):
    """Checks received data against the expected data, and optionally echoes it."""

    def __init__(self, expected: bytes = b"", echo: bool = False) -> None:
        self.expected, self.echo = expected, echo
        self.count = 0
        self.calls: list[str] = []
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[str] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.transport: Any = None

    def is_over(self) -> bool:
        return self.calls in ([], ["made", "lost"])

    def end(self, how: str) -> None:
        if not self.over.done():
            self.over.set_result(how)

    def connection_made(self, transport: Any) -> None:
        self.calls.append("made")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.calls != ["made"]:
            self.calls.append("data")
        if data != self.expected[self.count : self.count + len(data)]:
            self.end("corrupted")
        self.count += len(data)
        if self.echo:
            self.transport.write(data)
        elif self.count == len(self.expected):
            self.end("complete")

    def datagram_received(self, data: bytes, address: Any) -> None:
        if self.calls != ["made"]:
            self.calls.append("datagram")
        if data not in self.expected:
            self.end("corrupted")
        self.count += 1
        if self.echo:
            self.transport.sendto(data, address)

    def error_received(self, error: Exception) -> None:
        pass

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        self.calls.append("lost")
        self.end("complete" if self.count == len(self.expected) else "ended")
        if not self.lost.done():
            self.lost.set_result(None)

    async def complete(self) -> None:
        """Wait until everything has arrived."""
        how = await asyncio.shield(self.over)
        if how != "complete":
            raise Corrupted if how == "corrupted" else Ended


class SegmentPeer(Peer):
    """Takes several datagrams at a time."""

    def datagrams_received(self, datagrams: list[bytes], address: Any) -> None:
        for data in datagrams:
            self.datagram_received(data, address)


Scenario = Callable[[Stage], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def write_in_pieces(transport: Any, data: bytes) -> None:
    """Write some pieces individually, some together, some with writelines()."""
    first, second, third = data[:1000], data[1000:9000], data[9000:20_000]
    transport.write(first)
    transport.write(bytearray(second))
    transport.writelines([third[:5000], third[5000:]])
    transport.write(data[20_000:])


@scenario
async def tcp(stage: Stage) -> None:
    await echo_over_ip(stage, {}, {})


@scenario
async def tls(stage: Stage) -> None:
    from ..support.certificates import HOST, client_context, server_context

    client = {"ssl": client_context(), "server_hostname": HOST, "ssl_handshake_timeout": 1}
    await echo_over_ip(stage, client, {"ssl": server_context(), "ssl_handshake_timeout": 1})


async def echo_over_ip(stage: Stage, client: dict[str, Any], server: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: stage.peer(DATA, True), "127.0.0.1", 0, backlog=3, **server
    )
    stage.cleanup.callback(listener.close)
    address = listener.sockets[0].getsockname()
    transports = []
    for _ in range(2):
        transport, peer = await loop.create_connection(lambda: stage.peer(DATA), *address, **client)
        write_in_pieces(transport, DATA)
        transports.append((transport, peer))
    for transport, peer in transports:
        await peer.complete()
        transport.close()
        await peer.lost


@scenario
async def unix(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    stage.cleanup.callback(right.close)
    stage.cleanup.callback(left.close)
    transport, peer = await loop.create_unix_connection(lambda: stage.peer(DATA), sock=left)
    await loop.create_unix_connection(lambda: stage.peer(DATA, True), sock=right)
    loop.call_soon(write_in_pieces, transport, DATA)
    await peer.complete()
    transport.pause_reading()
    transport.resume_reading()
    transport.close()
    await peer.lost


@scenario
async def streams(stage: Stage) -> None:
    served = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        try:
            while data := await reader.read(10_000):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    stage.cleanup.callback(server.close)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    stage.cleanup.callback(writer.transport.abort)
    writer.write(DATA)
    received = b""
    while len(received) < len(DATA):
        data = await reader.read(1 << 16)
        if not data:
            raise Ended
        received += data
    await writer.drain()
    if received != DATA:
        raise Corrupted
    writer.close()
    await writer.wait_closed()
    await asyncio.gather(*served, return_exceptions=True)


async def end_datagrams(peer: Peer, *transports: asyncio.DatagramTransport) -> None:
    """Wait for 20 datagrams, of which some may be lost, but none is altered or repeated."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            while peer.count < 20:
                await asyncio.sleep(0.001)
    if peer.count > 20 or (peer.over.done() and peer.over.result() == "corrupted"):
        raise Corrupted
    for transport in transports:
        transport.close()
    await peer.lost


@scenario
async def udp(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    address = ("127.0.0.1", 0)
    server, _ = await loop.create_datagram_endpoint(
        lambda: stage.peer(DATA, True), local_addr=address
    )
    client, peer = await loop.create_datagram_endpoint(
        lambda: stage.peer(DATA), remote_addr=server.get_extra_info("sockname")
    )
    for number in range(20):
        client.sendto(DATA[number * 100 : number * 100 + 100])
        if number % 5 == 4:
            await asyncio.sleep(0)
    await end_datagrams(peer, client, server)


@scenario
async def udp_segments(stage: Stage) -> None:
    """Several datagrams in a call: some may be lost, but none is altered or repeated."""
    loop = asyncio.get_running_loop()
    address = ("127.0.0.1", 0)
    peer = SegmentPeer(DATA)
    stage.peers.append(peer)
    server, _ = await loop.create_datagram_endpoint(lambda: peer, local_addr=address)
    client, _ = await loop.create_datagram_endpoint(
        stage.peer, remote_addr=server.get_extra_info("sockname")
    )
    for number in range(5):
        client.send_segments(DATA[number * 400 : number * 400 + 350], 100)  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    await end_datagrams(peer, client, server)


@scenario
async def pipes(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    ends = os.pipe()
    reader = stage.cleanup.enter_context(os.fdopen(ends[0], "rb", 0))
    writer = stage.cleanup.enter_context(os.fdopen(ends[1], "wb", 0))
    _, peer = await loop.connect_read_pipe(lambda: stage.peer(DATA), reader)
    sending, _ = await loop.connect_write_pipe(stage.peer, writer)
    write_in_pieces(sending, DATA)
    await peer.complete()
    sending.close()
    await peer.lost


@scenario
async def child(stage: Stage) -> None:
    process = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    stage.cleanup.push_async_callback(ended, process)
    received, _ = await process.communicate(DATA)
    if received != DATA[: len(received)]:
        raise Corrupted
    if len(received) != len(DATA):
        raise Ended
    if await process.wait():
        raise Ended


async def ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    process._transport.close()  # type: ignore[attr-defined]
    await process.wait()


@scenario
async def quick_child(stage: Stage) -> None:
    process = await asyncio.create_subprocess_exec("false")
    stage.cleanup.push_async_callback(ended, process)
    # 255 is what asyncio reports for a child that was reaped elsewhere.
    expected = (1, 255) if stage.error == errno.ECHILD else (1,)
    if await process.wait() not in expected:
        raise Corrupted


@scenario
async def signals(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    stage.cleanup.callback(loop.remove_signal_handler, signal.SIGUSR1)
    for _ in range(3):
        loop.call_later(0.001, os.kill, os.getpid(), signal.SIGUSR1)
        await heard.wait()
        heard.clear()


async def beginning(stage: Stage) -> None:
    """Everything that a loop does for the first time, including its creation and closing."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.001)
    await signals(stage)
    await loop.run_in_executor(None, int)
    await readiness(stage)


# The faults of these scenarios begin before the loop is created.
EARLY = (beginning,)
SCENARIOS |= {function.__name__: function for function in EARLY}


@scenario
async def executor(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    calls = [loop.run_in_executor(None, bytes.upper, b"text") for _ in range(5)]
    if set(await asyncio.gather(*calls)) != {b"TEXT"}:
        raise Corrupted
    await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)


@scenario
async def threadsafe(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake() -> None:
        for _ in range(20):
            loop.call_soon_threadsafe(woken.set)

    thread = threading.Thread(target=wake)
    thread.start()
    try:
        for delay in (0, 0.0003, 0.002):
            await asyncio.sleep(delay)
        await woken.wait()
    finally:
        thread.join()


@scenario
async def sock_calls(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    stage.cleanup.callback(listener.close)
    left = socket.socket()
    left.setblocking(False)
    stage.cleanup.callback(left.close)
    accepting = asyncio.create_task(loop.sock_accept(listener))
    await loop.sock_connect(left, listener.getsockname())
    right, _ = await accepting
    stage.cleanup.callback(right.close)

    async def receive() -> None:
        buffer = bytearray(50_000)
        received = bytearray()
        while len(received) < len(DATA):
            if len(received) % 2:
                data = await loop.sock_recv(right, 50_000)
            else:
                data = bytes(buffer[: await loop.sock_recv_into(right, buffer)])
            if not data:
                raise Ended
            received += data
        if received != DATA:
            raise Corrupted

    receiving = asyncio.create_task(receive())
    stage.cleanup.callback(receiving.cancel)
    await loop.sock_sendall(left, DATA)
    await receiving


@scenario
async def sock_datagrams(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    ends = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
    for end in ends:
        stage.cleanup.callback(end.close)
        end.bind(("127.0.0.1", 0))
        end.setblocking(False)
    receiving = asyncio.create_task(loop.sock_recvfrom(ends[1], 2000))
    stage.cleanup.callback(receiving.cancel)
    await loop.sock_sendto(ends[0], DATA[:1000], ends[1].getsockname())
    data, address = await receiving
    if data != DATA[:1000] or address != ends[0].getsockname():
        raise Corrupted


@scenario
async def sock_messages(stage: Stage) -> None:
    """Descriptors in a stream of messages with several buffers, and with datagrams."""
    passed, other = os.pipe()
    stage.cleanup.callback(os.close, passed)
    os.close(other)
    await pass_descriptor(stage, passed, DATA, stage.pair())
    await pass_descriptor(stage, passed, DATA[:1000], stage.pair(socket.SOCK_DGRAM))


async def pass_descriptor(
    stage: Stage, passed: int, content: bytes, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Send the content in messages that also pass a descriptor, and check what arrives."""
    loop = asyncio.get_running_loop()
    left, right = ends
    descriptor = array.array("i", [passed])
    space = socket.CMSG_SPACE(descriptor.itemsize)
    counts = Counter[str]()

    def adopt(ancillary: list[tuple[int, int, bytes]]) -> None:
        for _, _, received in ancillary:
            number = int.from_bytes(received, sys.byteorder)
            stage.cleanup.callback(os.close, number)
            counts["received"] += 1
            if not os.path.sameopenfile(number, passed):
                raise Corrupted

    async def receive() -> None:
        buffers = [bytearray(10_000), bytearray(40_000)]
        received = bytearray()
        while len(received) < len(content):
            if len(received) % 2:
                data, ancillary, *_ = await loop.sock_recvmsg(right, 50_000, space)  # type: ignore[attr-defined]
            else:
                into = loop.sock_recvmsg_into(right, buffers, space)  # type: ignore[attr-defined]
                length, ancillary, *_ = await into
                data = b"".join(buffers)[:length]
            adopt(ancillary)
            if not data:
                raise Ended
            received += data
        if received != content:
            raise Corrupted

    async def send() -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)]
        rest = memoryview(content)
        while rest:
            message = [rest[:900], rest[900:60_000]]
            sent = await loop.sock_sendmsg(left, message, rights)  # type: ignore[attr-defined]
            rest = rest[sent:]
            counts["sent"] += 1

    cancelled = asyncio.create_task(receive())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(send(), receive())
    if counts["received"] != counts["sent"]:
        raise Corrupted


@scenario
async def files(stage: Stage) -> None:
    """sendfile() over a transport and over a socket."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryFile() as file:
        file.write(DATA)
        file.seek(0)
        left, right = stage.pair()
        transport, _ = await loop.create_unix_connection(stage.peer, sock=left)
        await loop.create_unix_connection(lambda: stage.peer(DATA), sock=right)
        peer = stage.peers[-1]
        await loop.sendfile(transport, file)
        await peer.complete()


@scenario
async def readiness(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    left, right = stage.pair()
    received: asyncio.Future[bytes] = loop.create_future()

    def write() -> None:
        loop.remove_writer(left)
        left.send(b"x")

    def read() -> None:
        loop.remove_reader(right)
        received.set_result(right.recv(100))

    loop.add_writer(left, write)
    stage.cleanup.callback(loop.remove_writer, left)
    loop.add_reader(right, read)
    stage.cleanup.callback(loop.remove_reader, right)
    if await received != b"x":
        raise Corrupted


@scenario
async def loops(stage: Stage) -> None:
    """A separate loop in a thread."""
    from .worker import new_loop

    failed: list[BaseException] = []

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(asyncio.sleep(0.001))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)
    thread.join()
    if failed:
        raise failed.pop()


@scenario
async def fork(stage: Stage) -> None:
    from .worker import new_loop

    pid = os.fork()
    if not pid:
        signal.alarm(2)
        try:
            asyncio._set_running_loop(None)
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(asyncio.sleep(0.001))
        except OSError:
            os._exit(1)
        except BaseException:
            os._exit(2)
        os._exit(0)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        await asyncio.sleep(0.001)
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise Corrupted(f"the child has ended with {status}")
