"""Producers and consumers with a queue; a semaphore, an event and a lock."""

import asyncio


async def producer(queue: asyncio.Queue, name: str) -> None:
    for number in range(3):
        await queue.put(f"{name}{number}")
    print(name, "done")


async def consumer(queue: asyncio.Queue, found: list) -> None:
    while True:
        found.append(await queue.get())
        await asyncio.sleep(0)
        queue.task_done()


async def limited(semaphore: asyncio.Semaphore, number: int, running: list) -> None:
    async with semaphore:
        running.append(number)
        print("running:", len(running))
        for _ in range(number + 1):
            await asyncio.sleep(0)
        running.remove(number)


async def main() -> None:
    queue: asyncio.Queue = asyncio.Queue(maxsize=2)
    found: list = []
    consumers = [asyncio.create_task(consumer(queue, found)) for _ in range(2)]
    await asyncio.gather(producer(queue, "a"), producer(queue, "b"))
    await queue.join()
    for task in consumers:
        task.cancel()
    print(await asyncio.gather(*consumers, return_exceptions=True))
    print(found)

    semaphore = asyncio.Semaphore(2)
    running: list = []
    await asyncio.gather(*[limited(semaphore, number, running) for number in range(5)])

    event, lock = asyncio.Event(), asyncio.Lock()

    async def waiter(number: int) -> None:
        await event.wait()
        async with lock:
            print("waiter", number, "holds", lock)

    waiters = [asyncio.create_task(waiter(number)) for number in range(3)]
    await asyncio.sleep(0)
    event.set()
    await asyncio.wait(waiters)
    print(event, lock, queue)


asyncio.run(main())
