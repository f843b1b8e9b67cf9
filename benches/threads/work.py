"""One process: `python -m benches.threads.work LOOP threads|processes N ROW...`

It prints a line for each row. For `processes` it starts N others, each of which runs one loop.
"""

import asyncio
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import cast

from benches.loops import new_event_loop_of

SECONDS_TO_START = 60

Loop = asyncio.AbstractEventLoop
Work = Callable[[Loop, int], Awaitable[None]]


async def chain(loop: Loop, count: int) -> None:
    """Callbacks, each of which schedules the next."""
    done, left = loop.create_future(), count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done


async def lookup(_loop: Loop, count: int) -> None:
    """No loop at work: what the interpreter alone takes to find a function of asyncio.

    asyncio's module has a `__getattr__`, so the interpreter does not specialise the access, and
    each one counts a reference to a function that all threads share. The other rows look their
    functions up once.
    """
    for _ in range(count):
        _ = asyncio.sleep


async def sleep0(_loop: Loop, count: int) -> None:
    sleep = asyncio.sleep
    for _ in range(count):
        await sleep(0)


async def future(loop: Loop, count: int) -> None:
    """Futures that a callback resolves."""
    for _ in range(count):
        waiter = loop.create_future()
        loop.call_soon(waiter.set_result, None)
        await waiter


async def spawn(_loop: Loop, count: int) -> None:
    async def child() -> None:
        pass

    create_task = asyncio.create_task
    for _ in range(count):
        await create_task(child())


async def gather(_loop: Loop, count: int) -> None:
    async def child() -> None:
        pass

    gather = asyncio.gather
    for _ in range(count // 10):
        await gather(*(child() for _ in range(10)))


async def threadsafe(loop: Loop, count: int) -> None:
    for _ in range(count):
        waiter = loop.create_future()
        loop.call_soon_threadsafe(waiter.set_result, None)
        await waiter


async def executor(loop: Loop, count: int) -> None:
    for _ in range(count):
        await loop.run_in_executor(None, int)


class Echo(asyncio.Protocol):
    """The server."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Client(asyncio.Protocol):
    """Sends a message when the last one has come back."""

    def __init__(self, count: int, done: asyncio.Future[None]) -> None:
        self.left, self.done = count, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(bytes(1024))

    def data_received(self, data: bytes) -> None:
        self.left -= 1
        if self.left > 0:
            self.transport.write(data)
        elif not self.done.done():
            self.done.set_result(None)


async def echo(loop: Loop, count: int) -> None:
    """1 KiB to a server on the same loop and back."""
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    done = loop.create_future()
    address = server.sockets[0].getsockname()
    transport, _ = await loop.create_connection(lambda: Client(count, done), *address)
    await done
    transport.close()
    server.close()


ROWS: dict[str, tuple[Work, int]] = {
    "chain": (chain, 300_000),
    "lookup": (lookup, 1_000_000),
    "sleep0": (sleep0, 300_000),
    "future": (future, 200_000),
    "spawn": (spawn, 100_000),
    "gather": (gather, 100_000),
    "threadsafe": (threadsafe, 150_000),
    "executor": (executor, 10_000),
    "echo": (echo, 30_000),
}
"""Each with the number of operations in a thread."""


def measure_threads(loop_name: str, threads: int, row: str) -> float:
    """Nanoseconds of CPU time for one operation, with a loop in each of several threads."""
    work, count = ROWS[row]
    new_event_loop = new_event_loop_of(loop_name)
    times: list[int] = []

    def take_time() -> None:
        times.append(time.process_time_ns())

    # The last thread that comes takes the time, before the others go on.
    begin, end = threading.Barrier(threads, take_time), threading.Barrier(threads, take_time)

    def run() -> None:
        loop = new_event_loop()
        loop.run_until_complete(work(loop, count // 20))
        begin.wait()
        loop.run_until_complete(work(loop, count))
        end.wait()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    started = [threading.Thread(target=run) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return (times[1] - times[0]) / (threads * count)


def measure_processes(loop_name: str, processes: int, row: str) -> float:
    """The same with one loop in each of several processes, which start together.

    Raises:
        EOFError: a process ended without a figure.
    """
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(processes)
    figures: list[Connection] = []
    for _ in range(processes):
        figure, result = context.Pipe(duplex=False)
        arguments = (loop_name, row, begin, result)
        context.Process(target=run_process, args=arguments, daemon=True).start()
        result.close()
        figures.append(figure)
    nanoseconds: list[float] = [figure.recv() for figure in figures]
    return sum(nanoseconds) / processes


def run_process(loop_name: str, row: str, begin: Barrier, result: Connection) -> None:
    work, count = ROWS[row]
    loop = new_event_loop_of(loop_name)()
    loop.run_until_complete(work(loop, count // 20))
    begin.wait(SECONDS_TO_START)
    start = time.process_time_ns()
    loop.run_until_complete(work(loop, count))
    result.send((time.process_time_ns() - start) / count)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def main() -> None:
    loop, kind, number, *rows = sys.argv[1:]
    measure = {"threads": measure_threads, "processes": measure_processes}[kind]
    for row in rows:
        print(json.dumps([row, measure(loop, int(number), row)]), flush=True)


if __name__ == "__main__":
    main()
