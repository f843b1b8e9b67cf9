"""The aiohttp client: five ways to fetch many pages, each checking every body.

A step counts the pages that it fetched and those of them that failed: a wrong body, a wrong status,
an unexpected exception, or a timeout that should have fired and didn't.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pages
from aiohttp import ClientSession

CONCURRENCY = 50
PATIENCE = 0.05


@dataclass
class Counts:
    """The progress of a step; the progress display reads it while the step runs."""

    pages: int = 0
    failures: int = 0
    timeouts: int = 0

    def add(self, correct: bool) -> None:
        """Count one page."""
        self.pages += 1
        self.failures += not correct


async def fetch(session: ClientSession, number: int) -> bool:
    """Fetch one page; return whether every byte of it is right."""
    async with session.get(f"/page/{number}") as response:
        return response.status == 200 and await response.read() == pages.body_of(number)


async def gather_with_semaphore(session: ClientSession, counts: Counts) -> None:
    """2,000 tasks at once, of which a semaphore lets 50 through."""
    limit = asyncio.Semaphore(CONCURRENCY)

    async def one(number: int) -> None:
        async with limit:
            counts.add(await fetch(session, number))

    await asyncio.gather(*[one(number) for number in range(2_000)])


async def wait_for_with_timeouts(session: ClientSession, counts: Counts) -> None:
    """1,000 pages with a timeout; every fifth page is too slow, and its timeout must fire."""
    limit = asyncio.Semaphore(CONCURRENCY)

    async def slow(number: int) -> bool:
        async with session.get(f"/slow/{number}") as response:
            await response.read()
            return False

    async def one(number: int) -> None:
        async with limit:
            if number % 5:
                counts.add(await asyncio.wait_for(fetch(session, number), 30))
                return
            try:
                counts.add(await asyncio.wait_for(slow(number), PATIENCE))
            except TimeoutError:
                counts.timeouts += 1
                counts.add(True)

    await asyncio.gather(*[one(number) for number in range(1_000)])


async def in_order_of_completion(session: ClientSession, counts: Counts) -> None:
    """1,000 pages in batches, handled as they arrive."""
    for start in range(0, 1_000, CONCURRENCY):
        batch = [fetch(session, number) for number in range(start, start + CONCURRENCY)]
        for arrived in asyncio.as_completed(batch):
            counts.add(await arrived)


async def workers_in_a_group(session: ClientSession, counts: Counts) -> None:
    """A TaskGroup of workers that share a queue of 1,000 uploads."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    for number in range(1_000):
        queue.put_nowait(number)

    async def worker() -> None:
        while not queue.empty():
            data = pages.body_of(queue.get_nowait())
            async with session.post("/submit", data=data) as response:
                counts.add(await response.json() == {"received": len(data)})

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(worker())


async def blocking_work(session: ClientSession, counts: Counts) -> None:
    """1,000 pages that the server compresses and the client decompresses, both in threads."""
    loop = asyncio.get_running_loop()
    limit = asyncio.Semaphore(CONCURRENCY)

    async def one(number: int) -> None:
        async with limit, session.get(f"/archive/{number}") as response:
            data = await response.read()
        text = await loop.run_in_executor(None, zlib.decompress, data)
        counts.add(text == pages.body_of(number))

    await asyncio.gather(*[one(number) for number in range(1_000)])


Step = Callable[[ClientSession, Counts], Coroutine[Any, Any, None]]

STEPS: dict[str, Step] = {
    "gather, semaphore": gather_with_semaphore,
    "wait_for, 200 timeouts": wait_for_with_timeouts,
    "as_completed": in_order_of_completion,
    "TaskGroup, uploads": workers_in_a_group,
    "run_in_executor": blocking_work,
}
#: pages that each step must fetch
PAGES = dict(zip(STEPS, (2_000, 1_000, 1_000, 1_000, 1_000), strict=True))
#: timeouts that must fire
TIMEOUTS = dict.fromkeys(STEPS, 0) | {"wait_for, 200 timeouts": 200}


async def finish(step: Awaitable[None], counts: Counts) -> None:
    """Await `step`; count an exception as a failed page, so that the program continues."""
    try:
        await step
    except Exception as error:
        print(f"\n{type(error).__name__}: {error}")
        counts.failures += 1
