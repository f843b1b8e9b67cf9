"""Eager tasks: eager_task_factory and eager_start (3.12 and later)."""

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12")

VAR = contextvars.ContextVar("VAR", default="default")


@pytest.fixture
def run_eagerly(flavour):
    """Runs a coroutine on a loop whose factory makes eager tasks."""

    def run(main):
        async def outer():
            factory = asyncio.create_eager_task_factory(flavour.Task)
            asyncio.get_running_loop().set_task_factory(factory)
            try:
                return await main
            finally:
                asyncio.get_running_loop().set_task_factory(None)

        return flavour.run(outer())

    return run


async def nothing(value=None):
    return value


def test_runs_immediately_to_the_first_await(run_eagerly):
    async def worker(log):
        log.append("start")
        await asyncio.sleep(0)
        log.append("end")

    async def main():
        log = []
        task = asyncio.create_task(worker(log))
        log.append("created")
        await task
        return log

    assert run_eagerly(main()) == ["start", "created", "end"]


def test_finishes_immediately_without_an_await(run_eagerly):
    async def main():
        task = asyncio.create_task(nothing(5), name="quick")
        return (
            task.done(),
            task.result(),
            task.get_name(),
            asyncio.all_tasks() == {asyncio.current_task()},
        )

    assert run_eagerly(main()) == (True, 5, "quick", True)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="3.12.1 dies of looking at such a task")
def test_repr_of_an_immediately_finished_task(run_eagerly):
    async def main():
        loop = asyncio.get_running_loop()
        tasks = [
            asyncio.create_task(nothing(5), name="quick"),
            asyncio.tasks._CTask(nothing(5), loop=loop, name="quick", eager_start=True),
        ]
        shown = [repr(task).partition(" created")[0].removesuffix(">") for task in tasks]
        return shown, [task.get_coro() is None for task in tasks]

    shown, without_coroutine = run_eagerly(main())
    assert shown[0] == shown[1]
    assert shown[0].startswith("<Task finished name='quick' ")
    assert without_coroutine[0] == without_coroutine[1]


def test_immediate_exception(run_eagerly):
    async def fail():
        raise LookupError("early")

    async def main():
        task = asyncio.create_task(fail())
        assert task.done()
        with pytest.raises(LookupError, match="early"):
            await task

    run_eagerly(main())


def test_current_task_is_swapped(run_eagerly):
    async def worker(found):
        found.append(asyncio.current_task())
        await asyncio.sleep(0)
        found.append(asyncio.current_task())

    async def main():
        me = asyncio.current_task()
        found = []
        task = asyncio.create_task(worker(found))
        assert asyncio.current_task() is me
        await task
        assert found == [task, task]
        assert asyncio.current_task() is me

    run_eagerly(main())


def test_nested(run_eagerly):
    async def worker(depth, log):
        log.append(("enter", depth))
        if depth:
            await asyncio.create_task(worker(depth - 1, log))
        log.append(("leave", depth))

    async def main():
        log = []
        task = asyncio.create_task(worker(3, log))
        assert task.done()
        return log

    expected = [("enter", i) for i in (3, 2, 1, 0)] + [("leave", i) for i in (0, 1, 2, 3)]
    assert run_eagerly(main()) == expected


def test_context(run_eagerly):
    async def worker():
        seen = VAR.get()
        VAR.set("inside")
        await asyncio.sleep(0)
        return seen, VAR.get()

    async def main():
        VAR.set("outside")
        task = asyncio.create_task(worker())
        assert VAR.get() == "outside"
        context = contextvars.copy_context()
        other = asyncio.create_task(worker(), context=context)
        await other
        return await task, context[VAR]

    assert run_eagerly(main()) == (("outside", "inside"), "inside")


def test_done_callbacks_of_a_finished_task_run_later(run_eagerly):
    async def main():
        seen = []
        task = asyncio.create_task(nothing())
        task.add_done_callback(seen.append)
        assert seen == []
        await asyncio.sleep(0)
        return seen == [task]

    assert run_eagerly(main())


def test_cancelled_inside_the_first_step(run_eagerly):
    async def worker():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def main():
        task = asyncio.create_task(worker())
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert run_eagerly(main())


def test_all_tasks_sees_suspended_ones(run_eagerly):
    async def main():
        event = asyncio.Event()
        tasks = {asyncio.create_task(event.wait()) for _ in range(3)}
        assert asyncio.all_tasks() == tasks | {asyncio.current_task()}
        event.set()
        await asyncio.wait(tasks)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_eagerly(main())


def test_gather_wait_and_groups(run_eagerly):
    async def main():
        assert await asyncio.gather(nothing(1), asyncio.sleep(0.001, 2), nothing(3)) == [1, 2, 3]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, i)) for i in range(3)]
        assert [task.result() for task in tasks] == [0, 1, 2]
        assert await asyncio.wait_for(nothing(4), 1) == 4

    run_eagerly(main())


def test_eager_start_keyword(loop, flavour):
    async def main():
        seen = []

        async def worker():
            seen.append("ran")

        task = flavour.Task(worker(), loop=loop, eager_start=True)
        assert task.done()
        late = flavour.Task(worker(), loop=loop, eager_start=False)
        assert not late.done()
        await late
        return seen

    assert loop.run_until_complete(main()) == ["ran", "ran"]


def test_eager_start_needs_a_running_loop(loop, flavour):
    """If the loop is not running, the task starts like any other."""
    coroutine = nothing(1)
    ours = outcome(lambda: flavour.Task(coroutine, loop=loop, eager_start=True))
    other = nothing(1)
    theirs = outcome(lambda: asyncio.tasks._CTask(other, loop=loop, eager_start=True))
    assert ours[0] == theirs[0]
    for task in (ours[1], theirs[1]):
        if isinstance(task, asyncio.Task):
            assert loop.run_until_complete(task) == 1
        else:
            assert str(ours[1]) == str(theirs[1])
    coroutine.close()
    other.close()


def outcome(call):
    try:
        return "made", call()
    except Exception as error:
        return type(error), error


def test_eager_task_factory_itself(loop):
    loop.set_task_factory(asyncio.eager_task_factory)

    async def main():
        task = asyncio.create_task(nothing(3))
        return task.done(), await task

    assert loop.run_until_complete(main()) == (True, 3)
    loop.set_task_factory(None)


def test_finished_eager_task_is_collected(run_eagerly):
    async def main():
        task = asyncio.create_task(nothing())
        gone = weakref.ref(task)
        del task
        gc.collect()
        return gone()

    assert run_eagerly(main()) is None


def test_exit_during_the_eager_step(flavour, loop, log):
    async def leave():
        raise SystemExit(3)

    async def main():
        with pytest.raises(SystemExit):
            flavour.Task(leave(), loop=loop, eager_start=True)
        return "survived"

    assert loop.run_until_complete(main()) == "survived"
    gc.collect()
    (message,) = log.messages()
    assert message.startswith("Task exception was never retrieved")
