"""Workloads for the suite's own tests, most of which fail. Not part of the table."""

import asyncio
import contextlib
import os
import time

from benches.workload import served, timed

GROUP = "callbacks"


def spared():
    """Whether the running loop is the standard library's, on which some of these succeed."""
    return type(asyncio.get_running_loop()).__module__.startswith("asyncio.")


def note(what, begin=0):
    """Write a line to the test's diary: the loop, the event, its begin and its end (ns)."""
    who = "asyncio" if spared() else "other"
    with open(os.environ["BENCH_DIARY"], "a") as diary:
        diary.write(f"{who} {what} {begin} {time.monotonic_ns()}\n")


@timed("faulty-count", GROUP, "reports too few operations", 10)
async def wrong_count(n):
    return n - 1


@timed("faulty-crash", GROUP, "kills its process", 10)
async def crash(n):
    os.abort()


@timed("faulty-hang", GROUP, "never ends", 10)
async def hang(n):
    time.sleep(60)


@timed("faulty-missing", GROUP, "uses a feature that the loop lacks", 10)
async def missing(n):
    raise NotImplementedError("no such thing")


@timed("faulty-error", GROUP, "fails", 10)
async def error(n):
    raise LookupError("nothing there")


samples = 0


@timed("faulty-hang-later", GROUP, "hangs the third time, except on asyncio", 10)
async def hang_later(n):
    global samples
    samples += 1
    await asyncio.sleep(0.01)
    while samples == 3 and not spared():
        pass
    return n


@timed("faulty-twice", GROUP, "succeeds only once, when the process begins", 10, young=True)
async def twice(n):
    global samples
    samples += 1
    return n if samples == 1 else 0


@timed("diary", GROUP, "records when it ran", 10)
async def diary(n):
    begin = time.monotonic_ns()
    await asyncio.sleep(0.02)
    note("sample", begin)
    return n


class Liar(asyncio.Protocol):
    """Echoes, but changes one byte."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data[:-1] + bytes([data[-1] ^ 1]))


class Mute(asyncio.Protocol):
    """Closes the connection at the first message."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.abort()


class Mortal(asyncio.Protocol):
    """Echoes, but the server dies in the middle of its third connection."""

    connections = 0

    def connection_made(self, transport):
        self.transport = transport
        Mortal.connections += 1

    def data_received(self, data):
        if Mortal.connections == 3 and not spared():
            os.abort()
        self.transport.write(data)


class Slow(asyncio.Protocol):
    """Echoes a millisecond later."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        asyncio.get_running_loop().call_later(0.001, self.transport.write, data)


class SlowToClose(asyncio.Protocol):
    """Echoes, and is busy for long when a connection ends."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, error):
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
        note("connection_lost")


@contextlib.asynccontextmanager
async def serve(protocol):
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    yield f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


def slow_server(endpoint):
    return serve(Slow)


def lying_server(endpoint):
    return serve(Liar)


def mute_server(endpoint):
    return serve(Mute)


def mortal_server(endpoint):
    return serve(Mortal)


def slow_to_close_server(endpoint):
    return serve(SlowToClose)


LOAD = ("echo", "--size", "100")
served("faulty-echo", GROUP, "returns other bytes", lying_server, *LOAD)
served("faulty-close", GROUP, "closes the connection", mute_server, *LOAD)
served("faulty-mortal", GROUP, "dies in the third turn, except on asyncio", mortal_server, *LOAD)
served("slow-to-close", GROUP, "records the end of connections", slow_to_close_server, *LOAD)
SLOW = ("echo", "--size", "64", "--connections", "20")
served("slow", "tcp", "answers a millisecond later", slow_server, *SLOW, percentage="50")
