"""gather, wait, wait_for, as_completed, shield, timeout, sleep, TaskGroup, to_thread."""

import asyncio
import sys
import threading

import pytest


async def value(result, delay=0.0):
    await asyncio.sleep(delay)
    return result


async def fails(error, delay=0.0):
    await asyncio.sleep(delay)
    raise error


# --- gather --------------------------------------------------------------------


def test_gather_keeps_the_order(run):
    async def main():
        return await asyncio.gather(value(1, 0.003), value(2, 0.001), value(3))

    assert run(main()) == [1, 2, 3]


def test_gather_of_nothing(run):
    async def main():
        return await asyncio.gather()

    assert run(main()) == []


def test_gather_runs_duplicates_once(run):
    async def main():
        coroutine = value("once")
        return await asyncio.gather(coroutine, coroutine)

    assert run(main()) == ["once", "once"]


def test_gather_first_exception(run):
    async def main():
        slow = asyncio.create_task(value("slow", 0.1))
        with pytest.raises(LookupError, match="first"):
            await asyncio.gather(slow, fails(LookupError("first")))
        assert not slow.done()
        return await slow

    assert run(main()) == "slow"


def test_gather_returns_exceptions(run):
    async def main():
        error = LookupError("x")
        found = await asyncio.gather(value(1), fails(error), return_exceptions=True)
        return found == [1, error]

    assert run(main())


def test_gather_cancelled(run):
    async def main():
        tasks = [asyncio.create_task(value(i, 60)) for i in range(3)]
        outer = asyncio.gather(*tasks)
        await asyncio.sleep(0)
        assert repr(outer).startswith("<_GatheringFuture pending")
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        return [task.cancelled() for task in tasks]

    assert run(main()) == [True] * 3


def test_gather_of_a_cancelled_child(run):
    async def main():
        task = asyncio.create_task(value(1, 60))
        outer = asyncio.gather(task, value(2))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer

    run(main())


def test_gather_mixes_kinds(run, flavour):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        return await asyncio.gather(
            future,
            flavour.Task(value("task"), loop=loop),
            asyncio.tasks._PyTask(value("python"), loop=loop),
            asyncio.tasks._CTask(value("c"), loop=loop),
            value("coroutine"),
        )

    assert run(main()) == ["future", "task", "python", "c", "coroutine"]


def test_many_tasks(run):
    async def main():
        found = await asyncio.gather(*[value(i) for i in range(2000)])
        return found == list(range(2000))

    assert run(main())


# --- wait ------------------------------------------------------------------------


def test_wait_for_all(run):
    async def main():
        tasks = {asyncio.create_task(value(i, i / 1000)) for i in range(3)}
        done, pending = await asyncio.wait(tasks)
        return done == tasks, pending

    assert run(main()) == (True, set())


def test_wait_for_the_first(run):
    async def main():
        fast, slow = asyncio.create_task(value(1)), asyncio.create_task(value(2, 60))
        done, pending = await asyncio.wait([fast, slow], return_when=asyncio.FIRST_COMPLETED)
        slow.cancel()
        return done == {fast}, pending == {slow}

    assert run(main()) == (True, True)


def test_wait_for_the_first_exception(run):
    async def main():
        bad = asyncio.create_task(fails(LookupError()))
        fine, slow = asyncio.create_task(value(1)), asyncio.create_task(value(2, 60))
        done, pending = await asyncio.wait([bad, fine, slow], return_when=asyncio.FIRST_EXCEPTION)
        slow.cancel()
        assert isinstance(bad.exception(), LookupError)
        return done == {bad, fine}, pending == {slow}

    assert run(main()) == (True, True)


def test_wait_with_a_timeout(run):
    async def main():
        slow = asyncio.create_task(value(1, 60))
        done, pending = await asyncio.wait([slow], timeout=0.005)
        assert not slow.cancelled()
        slow.cancel()
        return done, pending == {slow}

    assert run(main()) == (set(), True)


def test_wait_refuses_invalid_arguments(run):
    async def main():
        with pytest.raises(ValueError, match="Set of Tasks/Futures is empty"):
            await asyncio.wait([])
        coroutine = value(1)
        with pytest.raises(TypeError, match="Passing coroutines is forbidden"):
            await asyncio.wait([coroutine])
        coroutine.close()
        task = asyncio.create_task(value(1))
        with pytest.raises(TypeError, match="expect a list of futures, not Task"):
            await asyncio.wait(task)
        await task

    run(main())


# --- wait_for, timeout -------------------------------------------------------------


def test_wait_for_in_time(run):
    async def main():
        return await asyncio.wait_for(value("ok"), 5)

    assert run(main()) == "ok"


@pytest.mark.parametrize("seconds", [0, -1, 0.003])
def test_wait_for_expires(run, seconds):
    async def main():
        task = asyncio.create_task(value("late", 60))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, seconds)
        return task.cancelled()

    assert run(main()) is True


def test_wait_for_without_limit(run):
    async def main():
        return await asyncio.wait_for(value("ok", 0.002), None)

    assert run(main()) == "ok"


def test_wait_for_cancelled_from_outside(run):
    async def main():
        inner = asyncio.create_task(value(1, 60))
        outer = asyncio.create_task(asyncio.wait_for(inner, 30))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        return inner.cancelled()

    assert run(main()) is True


def test_wait_for_of_a_stubborn_task(run):
    async def stubborn():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "kept going"

    async def main():
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        return await asyncio.wait_for(task, 0.003)

    assert run(main()) == "kept going"


def test_many_wait_fors_leave_no_timers(run):
    async def main():
        for _ in range(300):
            await asyncio.wait_for(asyncio.sleep(0), 3600)

    run(main())


def test_timeout_expires(run):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.003) as scope:
                await asyncio.sleep(60)
        return scope.expired(), asyncio.current_task().cancelling()

    assert run(main()) == (True, 0)


def test_timeout_not_reached(run):
    async def main():
        async with asyncio.timeout(60) as scope:
            await asyncio.sleep(0)
        return scope.expired(), repr(scope)

    assert run(main()) == (False, "<Timeout [finished]>")


def test_timeout_at_and_rescheduling(run):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(loop.time() + 60) as scope:
                assert scope.when() == pytest.approx(loop.time() + 60, abs=5)
                scope.reschedule(loop.time() + 0.002)
                await asyncio.sleep(60)

    run(main())


def test_nested_timeouts(run):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.003) as outer:
                async with asyncio.timeout(60) as inner:
                    await asyncio.sleep(60)
        return outer.expired(), inner.expired()

    assert run(main()) == (True, False)


def test_timeout_and_cancel_simultaneously(run):
    async def victim():
        async with asyncio.timeout(0.002):
            await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(victim())
        await asyncio.sleep(0)
        task.cancel("from outside")
        with pytest.raises(asyncio.CancelledError, match="from outside"):
            await task

    run(main())


# --- as_completed --------------------------------------------------------------------


def test_as_completed(run):
    async def main():
        found = []
        for waiter in asyncio.as_completed([value(3, 0.03), value(1, 0.001), value(2, 0.015)]):
            found.append(await waiter)
        return found

    assert run(main()) == [1, 2, 3]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
def test_as_completed_yields_the_tasks_themselves(run):
    async def main():
        tasks = [asyncio.create_task(value(i, i / 10)) for i in (2, 0, 1)]
        found = [task async for task in asyncio.as_completed(tasks)]
        assert set(found) == set(tasks)
        return [task.result() for task in found]

    assert run(main()) == [0, 1, 2]


def test_as_completed_with_a_timeout(run):
    async def main():
        task = asyncio.create_task(value(1, 60))
        found = []
        for waiter in asyncio.as_completed([value(0), task], timeout=0.1):
            try:
                found.append(await waiter)
            except TimeoutError:
                found.append("timeout")
        task.cancel()
        return found

    assert run(main()) == [0, "timeout"]


# --- shield ----------------------------------------------------------------------------


def test_shield(run):
    async def main():
        inner = asyncio.create_task(value("survives", 0.003))
        outer = asyncio.shield(inner)
        await asyncio.sleep(0)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        return await inner

    assert run(main()) == "survives"


def test_shield_passes_results(run):
    async def main():
        with pytest.raises(LookupError):
            await asyncio.shield(fails(LookupError()))
        return await asyncio.shield(value(1))

    assert run(main()) == 1


def test_shield_reports_an_unretrieved_exception(run, log):
    async def main():
        inner = asyncio.create_task(fails(LookupError("unseen"), 0.002))
        outer = asyncio.shield(inner)
        await asyncio.sleep(0)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        await asyncio.wait([inner])

    run(main())
    texts = [message.splitlines()[0] for message in log.messages()]
    assert texts in (
        [],
        ["LookupError exception in shielded future"],
        ["Task exception was never retrieved"],
    )


# --- sleep -----------------------------------------------------------------------------


def test_sleep(run):
    async def main():
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert await asyncio.sleep(0.02, "result") == "result"
        return loop.time() - start

    assert 0.02 <= run(main()) < 5


def test_sleep_order(run):
    async def sleeper(log, delay):
        await asyncio.sleep(delay)
        log.append(delay)

    async def main():
        log = []
        delays = [0.03, 0, 0.01, 0.02, -1]
        await asyncio.gather(*[sleeper(log, delay) for delay in delays])
        return log

    assert run(main()) == [0, -1, 0.01, 0.02, 0.03]


def test_cancelled_sleeps_leave_no_timer(run):
    async def main():
        for _ in range(200):
            task = asyncio.create_task(asyncio.sleep(3600))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


# --- TaskGroup ---------------------------------------------------------------------------


def test_group_waits_for_all(run):
    async def main():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(value(i, i / 1000), name=f"t{i}") for i in range(3)]
        return [(task.get_name(), task.result()) for task in tasks]

    assert run(main()) == [("t0", 0), ("t1", 1), ("t2", 2)]


def test_group_failure_cancels_the_others(run):
    async def main():
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                slow = group.create_task(value(1, 60))
                group.create_task(fails(LookupError("one")))
                group.create_task(fails(ValueError("two")))
        assert slow.cancelled()
        if sys.version_info >= (3, 13):  # before, the group left its own cancellation counted
            assert asyncio.current_task().cancelling() == 0
        return str(caught.value), [repr(e) for e in caught.value.exceptions]

    assert run(main()) == (
        "unhandled errors in a TaskGroup (2 sub-exceptions)",
        ["LookupError('one')", "ValueError('two')"],
    )


def test_group_with_a_failing_body(run):
    async def main():
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                slow = group.create_task(value(1, 60))
                await asyncio.sleep(0)
                raise ZeroDivisionError
        return slow.cancelled(), len(caught.value.exceptions)

    assert run(main()) == (True, 1)


def test_group_cancelled_from_outside(run):
    async def body(started):
        async with asyncio.TaskGroup() as group:
            started.append(group.create_task(value(1, 60)))
            await asyncio.sleep(60)

    async def main():
        started = []
        task = asyncio.create_task(body(started))
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return started[0].cancelled()

    assert run(main()) is True


def test_nested_groups(run):
    async def main():
        found = []
        async with asyncio.TaskGroup() as outer:
            async with asyncio.TaskGroup() as inner:
                inner.create_task(value(1)).add_done_callback(lambda t: found.append("inner"))
            outer.create_task(value(2)).add_done_callback(lambda t: found.append("outer"))
        await asyncio.sleep(0)
        return found

    assert run(main()) == ["inner", "outer"]


# --- threads -------------------------------------------------------------------------------


def test_run_coroutine_threadsafe(run):
    async def main():
        loop = asyncio.get_running_loop()
        found = []

        def work():
            future = asyncio.run_coroutine_threadsafe(value("from thread", 0.001), loop)
            found.append(future.result(10))
            failing = asyncio.run_coroutine_threadsafe(fails(LookupError("t")), loop)
            found.append(type(failing.exception(10)))

        await asyncio.to_thread(work)
        return found

    assert run(main()) == ["from thread", LookupError]


def test_run_coroutine_threadsafe_cancelled(run):
    async def main():
        loop = asyncio.get_running_loop()
        tasks = []

        async def remember():
            tasks.append(asyncio.current_task())
            await asyncio.sleep(60)

        def work():
            future = asyncio.run_coroutine_threadsafe(remember(), loop)
            while not tasks:
                pass
            return future.cancel()

        assert await asyncio.to_thread(work) is True
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        return tasks[0].cancelled()

    assert run(main()) is True


def test_to_thread(run):
    async def main():
        names = await asyncio.gather(
            *[asyncio.to_thread(lambda: threading.current_thread().name) for _ in range(3)]
        )
        assert threading.current_thread().name not in names
        with pytest.raises(ValueError, match="invalid literal"):
            await asyncio.to_thread(int, "x")
        return await asyncio.to_thread(int, "11", base=2)

    assert run(main()) == 3
