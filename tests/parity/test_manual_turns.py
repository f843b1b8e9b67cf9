"""Code that runs turns of the loop itself, even inside a callback, as nest_asyncio does.

It polls with `loop._selector.select()`, takes handles from `loop._ready` and calls their `_run()`.
"""

import asyncio
import contextlib
import heapq
import socket
import sys

import pytest

# From 3.14 on the current task is kept in the thread state.
if sys.version_info >= (3, 12):

    def swap_current_task(loop, task):
        return asyncio.tasks._swap_current_task(loop, task)

else:

    def swap_current_task(loop, task):
        previous = asyncio.tasks._current_tasks.pop(loop, None)
        if task is not None:
            asyncio.tasks._current_tasks[loop] = task
        return previous


def turn(loop):
    """One turn in Python, using asyncio's private attributes."""
    timers = loop._scheduled
    while timers and timers[0]._cancelled:
        heapq.heappop(timers)
    timeout = None
    if loop._ready or loop._stopping:
        timeout = 0
    elif timers:
        timeout = max(timers[0]._when - loop.time(), 0)
    loop._process_events(loop._selector.select(timeout))
    while timers and timers[0]._when < loop.time() + loop._clock_resolution:
        loop._ready.append(heapq.heappop(timers))
    for _ in range(len(loop._ready)):
        if not loop._ready:
            break
        handle = loop._ready.popleft()
        if handle._cancelled:
            continue
        current = swap_current_task(loop, None)
        try:
            handle._run()
        finally:
            swap_current_task(loop, current)


def run_nested(loop, coroutine):
    """run_until_complete() that also works inside a running loop."""
    task = loop.create_task(coroutine)
    while not task.done():
        turn(loop)
    return task.result()


def test_entries_are_handles(loop):
    seen = []
    assert len(loop._ready) == 0
    assert not loop._ready
    for number in range(3):
        loop.call_soon(seen.append, number)
    loop.call_soon(seen.append, "cancelled").cancel()
    assert len(loop._ready) == 4
    for _ in range(3):
        handle = loop._ready.popleft()
        assert isinstance(handle, asyncio.Handle)
        assert not handle._cancelled
        handle._run()
    assert seen == [0, 1, 2]
    assert loop._ready.popleft()._cancelled
    with pytest.raises(IndexError, match=r"^pop from an empty deque$"):
        loop._ready.popleft()


def test_a_handle_may_be_put_back(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop._ready.append(loop._ready.popleft())
    loop.run_until_complete(asyncio.sleep(0))
    assert seen == [1]


def test_turned_from_outside(loop):
    async def main():
        return [await asyncio.sleep(0.001, number) for number in range(5)]

    previous = asyncio._get_running_loop()
    asyncio._set_running_loop(loop)
    try:
        assert run_nested(loop, main()) == list(range(5))
    finally:
        asyncio._set_running_loop(previous)


def test_tasks_nested_by_the_dict_of_current_tasks(run, flavour, monkeypatch):
    """As nest_asyncio does; on 3.14 with asyncio's Python class, the only one in that dict."""

    def swap(loop, task):
        tasks = asyncio.tasks._current_tasks
        previous = tasks.pop(loop, None)
        if task is not None:
            tasks[loop] = task
        return previous

    monkeypatch.setitem(globals(), "swap_current_task", swap)

    async def below(depth):
        await asyncio.sleep(0)
        found = run_nested(asyncio.get_running_loop(), below(depth - 1)) if depth else []
        await asyncio.sleep(0.001)
        return [*found, depth]

    async def nested():
        this = asyncio.current_task()
        found = run_nested(asyncio.get_running_loop(), below(5))
        assert asyncio.current_task() is this
        return found

    async def main():
        loop = asyncio.get_running_loop()
        if flavour.is_asyncio and sys.version_info >= (3, 14):
            loop.set_task_factory(
                lambda loop, coro, **options: asyncio.tasks._PyTask(coro, loop=loop, **options)
            )
        assert await loop.create_task(nested()) == list(range(6))
        assert not asyncio.tasks._current_tasks.pop("no loop", None)

    run(main())


def test_nested_tasks_and_the_current_task(run):
    async def below(depth):
        loop = asyncio.get_running_loop()
        this = asyncio.current_task()
        assert this is not None
        await asyncio.sleep(0)
        found = run_nested(loop, below(depth - 1)) if depth else []
        assert asyncio.current_task() is this
        await asyncio.sleep(0.001)
        assert asyncio.current_task() is this
        return [*found, depth]

    async def main():
        this = asyncio.current_task()
        for _ in range(3):
            assert run_nested(asyncio.get_running_loop(), below(5)) == list(range(6))
            assert asyncio.current_task() is this
            await asyncio.sleep(0)
            assert asyncio.current_task() is this
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        seen = []
        await asyncio.sleep(0)
        assert seen == [None]

    run(main())


def test_other_tasks_continue(run):
    async def main():
        ticks = []

        async def tick():
            while True:
                ticks.append(None)
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())

        async def see_ticks():
            while len(ticks) < 5:
                await asyncio.sleep(0.001)

        run_nested(asyncio.get_running_loop(), see_ticks())
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking

    run(main())


def test_sockets_threads_and_exceptions(run):
    async def main():
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            loop.call_later(0.01, left.send, b"data")
            assert run_nested(loop, loop.sock_recv(right, 10)) == b"data"
        assert run_nested(loop, asyncio.to_thread(sum, (1, 2, 3))) == 6

        async def fail():
            await asyncio.sleep(0)
            raise KeyError("nested")

        with pytest.raises(KeyError, match="nested"):
            run_nested(loop, fail())

    run(main())


def test_writes_of_the_outer_callback_are_sent(run):
    """Writes of one callback may be coalesced, but not across a nested turn."""

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def main():
        loop = asyncio.get_running_loop()
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for number in range(20):
                for part in (b"first ", b"second ", b"third "):
                    writer.write(part)
                writer.write(b"%03d" % number)
                whole = b"first second third %03d" % number
                assert run_nested(loop, reader.readexactly(len(whole))) == whole
            writer.close()
            await writer.wait_closed()

    run(main())


def test_ready_is_a_deque(loop):
    """The operations that nest_asyncio2 and others use on `loop._ready`."""
    order = []
    handles = [loop.call_soon(order.append, number) for number in range(6)]
    ready = loop._ready
    assert list(ready) == handles
    assert len(ready) == 6
    assert ready
    assert handles[3] in ready
    assert ready[0] is handles[0]
    assert ready[-1] is handles[-1]
    assert list(reversed(ready)) == handles[::-1]
    assert ready.index(handles[2]) == 2
    assert ready.count(handles[2]) == 1
    assert ready.pop() is handles[5]
    ready.appendleft(handles[5])
    ready.rotate(-1)
    assert list(ready) == [*handles[:5], handles[5]]
    ready.remove(handles[1])
    ready.insert(0, handles[1])
    taken = [ready.popleft() for _ in range(2)]
    assert taken == [handles[1], handles[0]]
    ready.extendleft(taken)
    ready.extend([])
    del ready[0]
    ready[0] = handles[0]
    assert ready.copy() == ready
    assert ready.copy() is not ready
    with pytest.raises(ValueError):
        ready.remove(handles[0] if handles[0] not in ready else None)
    ready.reverse()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == [5, 4, 3, 2, 0]
    ready.append(loop.call_soon(order.append, "dropped"))
    ready.clear()
    assert not ready
    assert len(ready) == 0
    with pytest.raises(IndexError):
        ready.popleft()
    with pytest.raises(IndexError):
        ready.pop()


def test_steps_of_tasks_in_ready(loop):
    """Once accessed they are handles, and they run only once."""

    async def main():
        task = asyncio.create_task(asyncio.sleep(0, "result"), name="the task")
        before = list(loop._ready)
        assert task in [getattr(handle._callback, "__self__", None) for handle in before]
        assert list(loop._ready) == before
        loop._ready.rotate(0)
        assert await task == "result"

    loop.run_until_complete(main())


def test_handles_and_timers_of_asyncio_itself(loop):
    """Created by code that relies on asyncio's private names."""
    order = []
    handle = asyncio.Handle(order.append, ("handle",), loop)
    loop._ready.append(handle)
    cancelled = asyncio.Handle(order.append, ("never",), loop)
    loop._ready.append(cancelled)
    cancelled.cancel()
    now = loop.time()
    for name, delay in (("late", 0.002), ("early", 0.001), ("never", 0.0015)):
        timer = asyncio.TimerHandle(now + delay, order.append, (name,), loop)
        heapq.heappush(loop._scheduled, timer)
        timer._scheduled = True
        if name == "never":
            timer.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    assert order == ["handle", "early", "late"]
