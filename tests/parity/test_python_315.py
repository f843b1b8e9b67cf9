"""Python 3.15: tasks and futures that are made once.

What changed for the contexts of connections is in test_connection_contexts.py.
"""

import asyncio
import contextvars
import gc
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.version_info < (3, 15), reason="new in Python 3.15")


async def nothing():
    pass


def refusal(function, *args, **kwargs):
    with pytest.raises((TypeError, RuntimeError)) as caught:
        function(*args, **kwargs)
    return type(caught.value), str(caught.value)


def test_a_second_init_is_refused(loop, flavour):
    class Task(flavour.Task):
        pass

    class Future(flavour.Future):
        pass

    Task.__module__ = Future.__module__ = "__main__"
    where = "test_a_second_init_is_refused.<locals>."
    # The C classes' own module; it shows in no other place.
    module = "_asyncio" if flavour.is_asyncio else "ferroloop"
    task = flavour.Task(nothing(), loop=loop)
    for future, name in (
        (flavour.Future(loop=loop), f"{module}.Future"),
        (Future(loop=loop), f"{where}Future"),
    ):
        future.add_done_callback(print)
        text = f"{name} object is already initialized"
        assert refusal(future.__init__, loop=loop) == (RuntimeError, text)
        assert len(future._callbacks) == 1
        assert future.remove_done_callback(print) == 1
    for one, name in ((task, f"{module}.Task"), (Task(nothing(), loop=loop), f"{where}Task")):
        text = f"{name} object is already initialized"
        # Before the coroutine is looked at.
        assert refusal(one.__init__, 1, loop=loop) == (RuntimeError, text)
        loop.run_until_complete(one)
        other = nothing()
        assert refusal(one.__init__, other, loop=loop) == (RuntimeError, text)
        other.close()
        assert one.done()


def test_a_first_init_may_come_late_and_fail_once(loop, flavour):
    task = flavour.Task.__new__(flavour.Task)
    assert refusal(task.__init__, 1, loop=loop) == (
        TypeError,
        "a coroutine was expected, got 1",
    )
    coroutine = nothing()
    assert refusal(task.__init__, coroutine, loop=loop)[0] is RuntimeError
    coroutine.close()
    task = flavour.Task.__new__(flavour.Task)
    task.__init__(nothing(), loop=loop)
    loop.run_until_complete(task)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("kind", ["class", "create_task"])
def test_a_context_that_is_none(run, flavour, kind, eager):
    class Other:
        pass

    Other.__module__ = "elsewhere"
    names = {
        1: "int",
        Other(): f"elsewhere.{Other.__qualname__}",
        contextvars.ContextVar("variable"): "_contextvars.ContextVar",
    }

    async def main():
        loop = asyncio.get_running_loop()
        if kind == "create_task":
            loop.set_task_factory(
                lambda loop, coro, **kwargs: flavour.Task(coro, loop=loop, **kwargs)
            )
        for other, name in names.items():
            make = loop.create_task if kind == "create_task" else flavour.Task
            coroutine = nothing()
            options = {} if kind == "create_task" else {"loop": loop}
            assert refusal(make, coroutine, context=other, eager_start=eager, **options) == (
                TypeError,
                f"a contextvars.Context was expected, got {name}",
            )
            coroutine.close()
        # Nothing is reported about what never was a task: the fixture would see it.
        gc.collect()

    run(main())


def test_an_eager_start_that_fails_is_reported_once(run, flavour):
    async def main():
        context = contextvars.copy_context()
        coroutine = nothing()
        with pytest.raises(RuntimeError, match="cannot enter context"):
            context.run(
                lambda: flavour.Task(
                    coroutine,
                    loop=asyncio.get_running_loop(),
                    context=context,
                    eager_start=True,
                )
            )
        coroutine.close()
        gc.collect()

    run(main())
