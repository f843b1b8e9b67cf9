"""Blocking work on the pool."""

import asyncio

from benches.workload import timed

GROUP = "threads"


def work():
    return 1


@timed("executor-sequential", GROUP, "run_in_executor, one at a time", 2_000, parallel=True)
async def executor_sequential(n):
    loop = asyncio.get_running_loop()
    done = 0
    for _ in range(n):
        done += await loop.run_in_executor(None, work)
    return done


@timed("executor-64", GROUP, "run_in_executor, 64 in flight", 6_400, parallel=True)
async def executor_64(n):
    loop = asyncio.get_running_loop()

    async def submit(times):
        done = 0
        for _ in range(times):
            done += await loop.run_in_executor(None, work)
        return done

    return sum(await asyncio.gather(*[submit(n // 64) for _ in range(64)]))


@timed("to-thread", GROUP, "to_thread, one at a time", 2_000, parallel=True)
async def to_thread(n):
    done = 0
    for _ in range(n):
        done += await asyncio.to_thread(work)
    return done
