"""Workloads that go wrong, each in its own way: the suite must say so. Not part of the table."""

import asyncio
import contextlib
import os
import time

from benches.workload import served, timed

GROUP = "callbacks"


@timed("faulty-count", GROUP, "says that it did less", 10)
async def wrong_count(n):
    return n - 1


@timed("faulty-crash", GROUP, "kills its process", 10)
async def crash(n):
    os.abort()


@timed("faulty-hang", GROUP, "never ends", 10)
async def hang(n):
    time.sleep(60)


@timed("faulty-missing", GROUP, "asks for what the loop doesn't have", 10)
async def missing(n):
    raise NotImplementedError("no such thing")


@timed("faulty-error", GROUP, "fails", 10)
async def error(n):
    raise LookupError("nothing there")


class Liar(asyncio.Protocol):
    """Echoes, but changes one byte."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data[:-1] + bytes([data[-1] ^ 1]))


class Mute(asyncio.Protocol):
    """Hangs up on the first message."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.abort()


@contextlib.asynccontextmanager
async def serve(protocol):
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    yield f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


def lying_server(endpoint):
    return serve(Liar)


def mute_server(endpoint):
    return serve(Mute)


LOAD = ("echo", "--size", "100")
served("faulty-echo", GROUP, "returns other bytes", lying_server, *LOAD)
served("faulty-close", GROUP, "hangs up", mute_server, *LOAD)
