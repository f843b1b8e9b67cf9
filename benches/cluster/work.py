"""What the cluster computes, and the client that has it computed.

Each program returns how many operations it did; a wrong result is an exception.
"""

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from distributed import Client

WORDS = ("the", "quick", "brown", "fox")
BLOCK = 1 << 20


def count_words(seed: int) -> dict[str, int]:
    """The words of a text that the seed determines."""
    counts = dict.fromkeys(WORDS, 0)
    for byte in hashlib.sha256(b"%d" % seed).digest() * 200:
        counts[WORDS[byte % len(WORDS)]] += 1
    return counts


def add(parts: list[dict[str, int]]) -> dict[str, int]:
    """The sum of counts."""
    return {word: sum(part[word] for part in parts) for word in WORDS}


def double(number: int) -> int:
    """The smallest task."""
    return 2 * number


def make_block(number: int) -> bytes:
    """A MiB that the number determines."""
    return bytes([number % 256]) * BLOCK


def first_and_length(block: bytes) -> tuple[int, int]:
    """What tells that a block has arrived."""
    return block[0], len(block)


async def words(client: Client, n: int = 200) -> int:
    """Counts of many texts, and their sum: the program that `make ecosystem` runs."""
    parts = client.map(count_words, range(n), pure=False)
    total = await client.submit(add, parts, pure=False)
    if sum(total.values()) != n * 6400:
        raise ValueError("wrong counts")
    return n


async def calls(client: Client, n: int = 100) -> int:
    """Tasks one after the other: each waits for the answer of the one before."""
    number = 1
    for _ in range(n):
        number = await client.submit(double, number, pure=False)
    if number != 2**n:
        raise ValueError("a wrong number")
    return n


async def blocks(client: Client, n: int = 32) -> int:
    """Blocks of 1 MiB that one worker makes and the other one needs."""
    maker, taker = sorted((await client.scheduler.identity(n_workers=-1))["workers"])
    made = client.map(make_block, range(n), workers=[maker], pure=False)
    found = client.map(first_and_length, made, workers=[taker], pure=False)
    if await client.gather(found) != [(number, BLOCK) for number in range(n)]:
        raise ValueError("wrong blocks")
    return n


PROGRAMS: dict[str, Callable[[Client], Awaitable[int]]] = {
    "words": words,
    "calls": calls,
    "blocks": blocks,
}


async def cpu_time(client: Client) -> float:
    """The seconds of CPU time that all processes of the cluster have used."""
    workers = await client.run(time.process_time)
    scheduler = await client.run_on_scheduler(time.process_time)
    return sum(workers.values()) + scheduler + time.process_time()


def loop_of_process() -> str:
    """The package that the loop of this process comes from."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


async def loop_of_worker() -> str:
    """The same, on the loop of a worker and not in a thread."""
    return loop_of_process()


async def main(address: str) -> None:
    """Run the program named by each line of input; write its costs in nanoseconds."""

    def report(**fields: Any) -> None:
        print(json.dumps(fields), flush=True)

    async with Client(address, asynchronous=True) as client:
        await client.wait_for_workers(2)
        loops = {loop_of_process(), *(await client.run(loop_of_worker)).values()}
        loops.add(await client.run_on_scheduler(loop_of_worker))
        report(loops=sorted(loops))
        loop = asyncio.get_running_loop()
        while name := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            cpu, begin = await cpu_time(client), time.perf_counter()
            n = await PROGRAMS[name](client)
            wall = time.perf_counter() - begin
            cpu = await cpu_time(client) - cpu
            report(wall=wall / n * 1e9, cpu=cpu / n * 1e9)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
