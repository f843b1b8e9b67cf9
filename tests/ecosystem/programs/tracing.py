"""Shared by the programs for tracing tools: requests, each with a job on a thread."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

COUNT = 10


async def requests(
    scope: Callable[[str], AbstractContextManager[Any]], job: Callable[[str], Any]
) -> list[Any]:
    """Serve requests sequentially and concurrently; return the results of their jobs and tasks.

    `scope(name)` is what a tool opens around a request, `job(name)` what the request calls: in a
    thread of the pool, through `to_thread()` and in a separate task.
    """
    loop = asyncio.get_running_loop()

    async def in_task(name: str) -> Any:
        await asyncio.sleep(0)
        return job(name)

    async def serve(number: int) -> list[Any]:
        with scope(f"request {number}"):
            return [
                await loop.run_in_executor(None, job, f"executor {number}"),
                await asyncio.to_thread(job, f"thread {number}"),
                await asyncio.create_task(in_task(f"task {number}")),
            ]

    one_by_one = [await serve(number) for number in range(COUNT)]
    at_once = await asyncio.gather(*map(serve, range(COUNT, 2 * COUNT)))
    return [*one_by_one, *at_once]
