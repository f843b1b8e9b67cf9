"""Tasks, futures and the functions of the standard library that use them."""

import asyncio
import contextlib

from benches.workload import timed

GROUP = "tasks"


async def noop():
    return 1


async def starts_eagerly(loop):
    """Whether the loop's task factory starts tasks eagerly."""
    coroutine = noop()
    try:
        task = loop.create_task(coroutine)
    except TypeError:
        coroutine.close()
        return False
    done = task.done()
    await task
    return done


@contextlib.asynccontextmanager
async def eager_tasks():
    """The running loop with the standard library's eager task factory."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        if not await starts_eagerly(loop):
            # uvloop always passes eager_start=. The factory of some Python releases refuses it,
            # that of others obeys it although it is None. To have a figure to compare with, uvloop
            # gets a factory that drops the argument.
            loop.set_task_factory(
                lambda loop, coro, eager_start=None, **options: asyncio.eager_task_factory(
                    loop, coro, **options
                )
            )
        yield loop
    finally:
        loop.set_task_factory(None)


@timed("spawn", GROUP, "await a fresh task", 20_000)
async def spawn(n):
    create_task = asyncio.get_running_loop().create_task
    done = 0
    for _ in range(n):
        done += await create_task(noop())
    return done


@timed("spawn-asyncio-task", GROUP, "await asyncio.Task(coro) built by hand", 20_000)
async def spawn_asyncio_task(n):
    loop = asyncio.get_running_loop()
    done = 0
    for _ in range(n):
        done += await asyncio.Task(noop(), loop=loop)
    return done


@timed("eager", GROUP, "await an eager task that never blocks", 20_000, python=(3, 12))
async def eager(n):
    async with eager_tasks() as loop:
        create_task = loop.create_task
        done = 0
        for _ in range(n):
            done += await create_task(noop())
        return done


@timed("future", GROUP, "future round trip: create_future, call_soon(set_result), await", 20_000)
async def future(n):
    loop = asyncio.get_running_loop()
    done = 0
    for _ in range(n):
        waiter = loop.create_future()
        loop.call_soon(waiter.set_result, 1)
        done += await waiter
    return done


@timed("future-ping-pong", GROUP, "two tasks hand futures to each other", 20_000)
async def future_ping_pong(n):
    loop = asyncio.get_running_loop()
    ball = loop.create_future()
    reply = loop.create_future()

    async def player():
        nonlocal ball, reply
        returned = 0
        while await ball:
            returned += 1
            ball = loop.create_future()
            reply.set_result(1)
        return returned

    opponent = loop.create_task(player())
    for _ in range(n):
        reply = loop.create_future()
        ball.set_result(True)
        await reply
    ball.set_result(False)
    return await opponent


@timed("sleep-zero", GROUP, "1,000 tasks, each sleep(0) in a loop", 100_000)
async def sleep_zero(n):
    async def sleeper(times):
        for _ in range(times):
            await asyncio.sleep(0)
        return times

    return sum(await asyncio.gather(*[sleeper(n // 1000) for _ in range(1000)]))


@timed("gather", GROUP, "gather of 10,000", 10_000)
async def gather(n):
    return sum(await asyncio.gather(*[noop() for _ in range(n)]))


@timed("task-group", GROUP, "TaskGroup of 10,000", 10_000)
async def task_group(n):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(noop()) for _ in range(n)]
    return sum(task.result() for task in tasks)


@timed("as-completed", GROUP, "as_completed over 10,000", 10_000)
async def as_completed(n):
    done = 0
    for finished in asyncio.as_completed([noop() for _ in range(n)]):
        done += await finished
    return done


@timed("wait", GROUP, "wait(FIRST_COMPLETED) on two tasks", 5_000)
async def wait(n):
    loop = asyncio.get_running_loop()
    seen = 0
    for _ in range(n):
        slow = loop.create_future()
        quick = loop.create_task(noop())
        done, pending = await asyncio.wait({slow, quick}, return_when=asyncio.FIRST_COMPLETED)
        seen += quick in done and slow in pending
        slow.cancel()
    return seen


@timed("shield", GROUP, "await shield(task)", 10_000)
async def shield(n):
    done = 0
    for _ in range(n):
        done += await asyncio.shield(noop())
    return done


@timed("timeout", GROUP, "timeout() around a sleep(0)", 10_000)
async def timeout(n):
    done = 0
    for _ in range(n):
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
            done += 1
    return done


@timed("wait-for", GROUP, "wait_for a coroutine that sleeps(0)", 10_000)
async def wait_for(n):
    async def work():
        await asyncio.sleep(0)
        return 1

    done = 0
    for _ in range(n):
        done += await asyncio.wait_for(work(), 60)
    return done


@timed("wait-for-expires", GROUP, "wait_for that runs out (10 ms, 1,000 at once)", 1_000)
async def wait_for_expires(n):
    loop = asyncio.get_running_loop()

    async def expire():
        try:
            await asyncio.wait_for(loop.create_future(), 0.01)
        except TimeoutError:
            return 1
        return 0

    return sum(await asyncio.gather(*[expire() for _ in range(n)]))


@timed("cancel", GROUP, "start a task, cancel it, await it", 10_000)
async def cancel(n):
    loop = asyncio.get_running_loop()
    seen = 0
    for _ in range(n):
        task = loop.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            seen += 1
    return seen


@timed("deep-await", GROUP, "await through 100 coroutines, twice suspended", 2_000)
async def deep_await(n):
    async def descend(depth):
        if depth == 0:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return 1
        return await descend(depth - 1)

    done = 0
    for _ in range(n):
        done += await descend(100)
    return done
