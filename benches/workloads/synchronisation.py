"""Queue, Lock, Semaphore, Event, Condition: the standard library's classes on a loop's futures."""

import asyncio

from benches.workload import timed

GROUP = "tasks"


@timed("queue", GROUP, "Queue between a producer and a consumer (maxsize 10)", 20_000)
async def queue(n):
    channel = asyncio.Queue(maxsize=10)

    async def produce():
        for _ in range(n):
            await channel.put(1)

    async def consume():
        seen = 0
        for _ in range(n):
            seen += await channel.get()
        return seen

    _, seen = await asyncio.gather(produce(), consume())
    return seen


@timed("lock", GROUP, "Lock contended by 10 tasks", 20_000)
async def lock(n):
    mutex = asyncio.Lock()
    inside = 0
    entered = 0

    async def contend(times):
        nonlocal inside, entered
        for _ in range(times):
            async with mutex:
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1
                entered += 1

    await asyncio.gather(*[contend(n // 10) for _ in range(10)])
    return entered


@timed("semaphore", GROUP, "Semaphore(10) among 100 tasks", 20_000)
async def semaphore(n):
    limit = asyncio.Semaphore(10)
    entered = 0

    async def contend(times):
        nonlocal entered
        for _ in range(times):
            async with limit:
                await asyncio.sleep(0)
                entered += 1

    await asyncio.gather(*[contend(n // 100) for _ in range(100)])
    return entered


@timed("event-fan-out", GROUP, "Event that wakes 1,000 waiters", 20_000)
async def event_fan_out(n):
    woken = 0

    async def wait_once(event):
        nonlocal woken
        await event.wait()
        woken += 1

    for _ in range(n // 1000):
        event = asyncio.Event()
        waiters = [asyncio.create_task(wait_once(event)) for _ in range(1000)]
        await asyncio.sleep(0)
        event.set()
        await asyncio.gather(*waiters)
    return woken


@timed("condition", GROUP, "Condition: notify one of 100 waiters", 5_000)
async def condition(n):
    gate = asyncio.Condition()
    tokens = 0
    taken = 0

    async def consume(times):
        nonlocal tokens, taken
        for _ in range(times):
            async with gate:
                while not tokens:
                    await gate.wait()
                tokens -= 1
                taken += 1

    consumers = [asyncio.create_task(consume(n // 100)) for _ in range(100)]
    await asyncio.sleep(0)
    for _ in range(n):
        async with gate:
            tokens += 1
            gate.notify()
    await asyncio.gather(*consumers)
    return taken
