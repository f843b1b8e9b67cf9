"""Keeps a number of connections alive for some time, then checks what is left."""

import asyncio
import contextlib
import ctypes
import gc
import random
import resource
import socket
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field

from ..support.certificates import HOST, client_context, server_context
from ..support.leaks import open_descriptors
from ..support.registrations import LARGEST_SHARE, Registrations, cpu_usage
from .connections import Connection, End, Talker, plan, talk, talk_raw

KINDS = ("tcp", "unix", "tls")

# "both": the end that has sent and received everything closes.
SCENARIOS = ("both", "close", "close", "half-close", "abort", "reset")

# Seconds that connections may take to end after the last one was made.
GRACE = 20.0

# The number of connections that may wait to be accepted at the same time.
CONNECTING = 100

# How much memory may remain: the allocator's, and pools that are kept.
LEFT_AT_MOST = 64 << 20


@dataclass
class Traffic:
    """A run of one kind of connection on the running loop."""

    kind: str
    count: int
    seconds: float
    seed: int
    failures: Counter = field(default_factory=Counter)
    ended: Counter = field(default_factory=Counter)
    received: Counter = field(default_factory=Counter)
    made: int = 0
    lost: int = 0
    started: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.connections: dict[int, Connection] = {}
        self.stages: dict[asyncio.Task, str] = {}
        self.connecting = asyncio.Semaphore(CONNECTING)

    def server_end(self, number: int) -> End:
        """The server's end of a connection whose number has just arrived."""
        connection = self.connections.get(number)
        if connection is None:  # Aborted, and already over for the client.
            connection = Connection(number, "abort", self.failures)
        connection.server_known = True
        return connection.ends[1]

    async def run(self) -> None:
        """Run everything, from starting the servers to stopping them."""
        async with contextlib.AsyncExitStack() as stack:
            self.addresses = [await self.serve(stack, streams) for streams in (False, True)]
            end = time.monotonic() + self.seconds
            workers = [asyncio.create_task(self.work(end)) for _ in range(self.count)]
            _, unfinished = await asyncio.wait(workers, timeout=self.seconds + GRACE)
            for task in unfinished:
                self.failures[f"{self.stages[task]}: unfinished"] += 1
                task.cancel()
            for task in workers:
                if task not in unfinished:
                    await task
            await asyncio.wait(workers)
            late = time.monotonic() + (1 if unfinished else GRACE)
            while self.lost < self.made and time.monotonic() < late:
                await asyncio.sleep(0.05)
            if self.lost != self.made:
                self.failures[f"all: {self.made - self.lost} of {self.made} ends not lost"] += 1

    async def serve(self, stack: contextlib.AsyncExitStack, streams: bool) -> object:
        """Start a server and return its address."""
        loop = asyncio.get_running_loop()
        options: dict = {"backlog": 4096}
        if self.kind == "tls":
            options["ssl"] = server_context()

        async def serve_streams(reader, writer):
            await talk(self, reader, writer, None)

        def factory():
            if not streams:
                return Talker(self)
            reader = asyncio.StreamReader(loop=loop)
            return asyncio.StreamReaderProtocol(reader, serve_streams, loop=loop)

        if self.kind == "unix":
            path = f"{stack.enter_context(tempfile.TemporaryDirectory())}/socket"
            server = await loop.create_unix_server(factory, path, **options)
        else:
            path = None
            server = await loop.create_server(factory, "127.0.0.1", 0, **options)
        stack.callback(server.close)
        return path or server.sockets[0].getsockname()

    async def work(self, end: float) -> None:
        """Make one connection after another."""
        task = asyncio.current_task()
        while time.monotonic() < end:
            self.started += 1
            scenario = self.chance.choice(SCENARIOS)
            if scenario == "half-close" and self.kind == "tls":
                scenario = "both"
            connection = Connection(self.started, scenario, self.failures)
            plan(connection, self.chance)
            self.connections[connection.number] = connection
            self.stages[task] = scenario
            try:
                await self.talk(connection)
                await connection.done.wait()
                connection.check_bytes()
                self.ended[scenario] += 1
                self.received[scenario] += sum(it.received for it in connection.ends)
            finally:
                del self.connections[connection.number]

    async def talk(self, connection: Connection) -> None:
        """Connect and act as the client."""
        loop, address = asyncio.get_running_loop(), self.chance.choice(self.addresses)
        end = connection.ends[0]
        options: dict = {}
        if self.kind == "tls":
            options = {"ssl": self.client, "server_hostname": HOST}
        unix = self.kind == "unix"
        way = self.chance.choice(
            ("protocol", "streams", "raw" if self.kind != "tls" else "streams")
        )
        async with self.connecting:
            if way == "raw":
                client = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
                client.setblocking(False)
                await loop.sock_connect(client, address)
            elif way == "streams":
                reader = asyncio.StreamReader(loop=loop)
                protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
                transport, _ = await self.connect(address, lambda: protocol, options)
            else:
                await self.connect(address, lambda: Talker(self, end), options)
        if way == "raw":
            await talk_raw(self, client, end)
        elif way == "streams":
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            await talk(self, reader, writer, end)

    async def connect(self, address, factory, options):
        loop = asyncio.get_running_loop()
        if self.kind == "unix":
            return await loop.create_unix_connection(factory, address, **options)
        return await loop.create_connection(factory, *address, **options)


def resident() -> int:
    """Resident memory in bytes, after the allocator has returned free memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def transports() -> Counter:
    """The live transports, counted by class."""
    gc.collect()
    kinds = [type(it) for it in gc.get_objects()]
    return Counter(kind.__name__ for kind in kinds if issubclass(kind, asyncio.BaseTransport))


@dataclass
class Result:
    """The result of a run: a row of figures and the failures."""

    kind: str
    ended: Counter
    received: Counter
    memory: int
    share: float
    failures: Counter


async def stress(kind: str, count: int, seconds: float, seed: int) -> Result:
    """Run one kind of connection, and examine the process before and after."""
    # Create per-process state first: pools, caches, threads.
    await run(Traffic(kind, min(count, 50), 0.5, seed))
    await asyncio.sleep(0.1)
    registrations = await Registrations.of_running_loop()
    memory, descriptors, alive = resident(), open_descriptors(), transports()
    traffic = Traffic(kind, count, seconds, seed)
    await run(traffic)
    failures = traffic.failures
    result = Result(kind, traffic.ended, traffic.received, 0, 0.0, failures)
    del traffic
    await asyncio.sleep(0.1)
    result.share = await cpu_usage()
    if result.share > LARGEST_SHARE:
        failures[f"after: the idle loop uses {result.share:.0%} of the processor"] += 1
    if left := registrations():
        failures[f"after: {len(left)} registrations are left"] += 1
    result.memory = resident() - memory
    if result.memory > LEFT_AT_MOST:
        failures[f"after: {result.memory >> 20} MiB of memory are left"] += 1
    if left := transports() - alive:
        failures[f"after: transports are left: {dict(left)}"] += 1
    if left := [fd for fd in open_descriptors() if fd not in descriptors]:
        failures[f"after: {len(left)} descriptors are left"] += 1
    return result


async def run(traffic: Traffic) -> None:
    if traffic.kind == "tls":
        traffic.client = client_context()
    await traffic.run()
