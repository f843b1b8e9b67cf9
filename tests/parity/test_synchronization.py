"""Lock, Event, Condition, Semaphore, Barrier, Queue on the loop: order and cancellation."""

import asyncio
import sys

import pytest


def test_lock_is_fair(run):
    async def worker(lock, log, number):
        async with lock:
            log.append(number)
            await asyncio.sleep(0)
            log.append(number)

    async def main():
        lock, log = asyncio.Lock(), []
        await asyncio.gather(*[worker(lock, log, i) for i in range(5)])
        return log

    assert run(main()) == [i for i in range(5) for _ in range(2)]


def test_lock_passes_on_when_a_waiter_is_cancelled(run):
    async def main():
        lock = asyncio.Lock()
        await lock.acquire()
        first = asyncio.create_task(lock.acquire())
        second = asyncio.create_task(lock.acquire())
        await asyncio.sleep(0)
        lock.release()
        first.cancel()
        await asyncio.wait([first, second])
        return first.cancelled(), second.result(), lock.locked()

    assert run(main()) == (True, True, True)


def test_event(run):
    async def main():
        event, log = asyncio.Event(), []

        async def waiter(number):
            log.append((number, await event.wait()))

        tasks = [asyncio.create_task(waiter(i)) for i in range(3)]
        await asyncio.sleep(0)
        event.set()
        await asyncio.wait(tasks)
        return log

    assert run(main()) == [(i, True) for i in range(3)]


def test_condition(run):
    async def main():
        condition, log, ready = asyncio.Condition(), [], []

        async def consumer(number):
            async with condition:
                await condition.wait_for(lambda: ready)
                log.append((number, ready.pop()))

        tasks = [asyncio.create_task(consumer(i)) for i in range(3)]
        await asyncio.sleep(0)
        for item in "abc":
            async with condition:
                ready.append(item)
                condition.notify()
            await asyncio.sleep(0.001)
        await asyncio.wait(tasks)
        return log

    assert run(main()) == [(0, "a"), (1, "b"), (2, "c")]


def test_semaphore_limits(run):
    async def main():
        semaphore, running, most = asyncio.BoundedSemaphore(3), 0, 0

        async def worker():
            nonlocal running, most
            async with semaphore:
                running += 1
                most = max(most, running)
                await asyncio.sleep(0)
                running -= 1

        await asyncio.gather(*[worker() for _ in range(20)])
        with pytest.raises(ValueError, match="released too many times"):
            semaphore.release()
        return most

    assert run(main()) == 3


def test_barrier(run):
    async def main():
        barrier = asyncio.Barrier(3)
        return sorted(await asyncio.gather(*[barrier.wait() for _ in range(3)]))

    assert run(main()) == [0, 1, 2]


def test_queue_between_tasks(run):
    async def main():
        queue, found = asyncio.Queue(maxsize=2), []

        async def producer():
            for i in range(10):
                await queue.put(i)

        async def consumer():
            while True:
                found.append(await queue.get())
                queue.task_done()

        task = asyncio.create_task(consumer())
        await producer()
        await queue.join()
        task.cancel()
        return found

    assert run(main()) == list(range(10))


@pytest.mark.parametrize("kind", [asyncio.PriorityQueue, asyncio.LifoQueue])
def test_ordered_queues(run, kind):
    async def main():
        queue = kind()
        for i in (3, 1, 2):
            queue.put_nowait(i)
        return [await queue.get() for _ in range(3)]

    assert run(main()) == ([1, 2, 3] if kind is asyncio.PriorityQueue else [2, 1, 3])


def test_cancelled_getter_loses_no_item(run):
    async def main():
        queue = asyncio.Queue()
        for _ in range(50):
            getter = asyncio.create_task(queue.get())
            await asyncio.sleep(0)
            queue.put_nowait("item")
            getter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getter
            assert queue.get_nowait() == "item"

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
def test_queue_shutdown(run):
    async def main():
        queue = asyncio.Queue()
        getter = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.shutdown()
        with pytest.raises(asyncio.QueueShutDown):
            await getter

    run(main())


def test_a_lock_belongs_to_one_loop(flavour):
    lock = asyncio.Lock()

    async def contend():
        async with lock:
            task = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0)
        await task
        lock.release()

    flavour.run(contend())
    with pytest.raises(RuntimeError, match="is bound to a different event loop"):
        flavour.run(contend())
