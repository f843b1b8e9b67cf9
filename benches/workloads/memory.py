"""Resident memory of pending tasks and futures.

Resident size and not ``sys.getsizeof``: a Rust object owns memory that Python can't see. The
figure is the growth of the process divided by the number of objects, so it includes allocator
overhead, as for the user. It also includes the coroutine (and its frame) that every task needs,
which is the same on all loops.
"""

import asyncio
import gc

from benches.workload import measured

GROUP = "memory"


def resident():
    """Resident bytes of this process, after the collector has run."""
    gc.collect()
    # Not from statm, which may be off by 64 pages per core.
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Rss:")) * 1024


def growth(new_event_loop, n, populate):
    """Bytes per object that the coroutine function `populate(n)` makes and returns."""
    loop = new_event_loop()

    async def main():
        # One small round first, so that lazily made state isn't counted.
        warm = await populate(100)
        for item in warm:
            item.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del warm, item
        before = resident()
        objects = await populate(n)
        after = resident()
        assert sum(not item.done() for item in objects) == n
        for item in objects:
            item.cancel()
        await asyncio.wait(objects)
        return (after - before) / n

    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


@measured("memory-future", GROUP, "pending future", 100_000, unit="bytes")
def memory_future(new_event_loop, n):
    async def populate(count):
        loop = asyncio.get_running_loop()
        return [loop.create_future() for _ in range(count)]

    return growth(new_event_loop, n, populate)


@measured("memory-task", GROUP, "task that waits on a future of its own", 50_000, unit="bytes")
def memory_task(new_event_loop, n):
    async def wait():
        await asyncio.get_running_loop().create_future()

    async def populate(count):
        tasks = [asyncio.create_task(wait()) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks

    return growth(new_event_loop, n, populate)


@measured("memory-task-unstarted", GROUP, "task not started yet", 50_000, unit="bytes")
def memory_task_unstarted(new_event_loop, n):
    async def wait():
        await asyncio.sleep(0)

    async def populate(count):
        return [asyncio.create_task(wait()) for _ in range(count)]

    return growth(new_event_loop, n, populate)


@measured("memory-sleeping-task", GROUP, "task in sleep(3600)", 50_000, unit="bytes")
def memory_sleeping_task(new_event_loop, n):
    async def populate(count):
        tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks

    return growth(new_event_loop, n, populate)
