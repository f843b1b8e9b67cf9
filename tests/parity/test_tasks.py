"""Task: running, naming, cancelling, introspection, repr, eager start, finalizing."""

import asyncio
import collections.abc
import contextvars
import gc
import io
import re
import sys
import traceback
import types
import weakref

import pytest

VAR = contextvars.ContextVar("VAR", default="default")
HERE = re.escape(__file__)


def drain(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


async def nothing(result=None):
    return result


async def sleeper():
    await asyncio.sleep(3600)


async def waits_for(future):
    return await future


async def fails(error):
    raise error


async def yields(thing):
    """Yields an object to the task that a task cannot wait for."""
    await bare_yield(thing)


@types.coroutine
def bare_yield(thing):
    yield thing


def line(function):
    return function.__code__.co_firstlineno


def text(task):
    """repr() without debug mode's `created at ...`."""
    return re.sub(r" created at \S+?:\d+>$", ">", repr(task))


def settle(loop, *tasks):
    """Cancel waiting tasks and let them finish."""
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


# --- making ------------------------------------------------------------------


def test_class(loop, flavour):
    task = loop.create_task(nothing())
    assert isinstance(task, asyncio.Task)
    assert isinstance(task, asyncio.Future)
    assert asyncio.isfuture(task)
    assert type(task) is flavour.Task
    assert type(task).__name__ == "Task"
    assert issubclass(flavour.Task, flavour.Future)
    assert not asyncio.iscoroutine(task)
    loop.run_until_complete(task)


def test_tasks_do_not_start_immediately(loop):
    seen = []

    async def main():
        seen.append(1)

    task = loop.create_task(main())
    assert seen == []
    loop.run_until_complete(task)
    assert seen == [1]


def test_made_by_its_class(loop, flavour):
    task = flavour.Task(nothing(7), loop=loop)
    assert task.get_loop() is loop
    assert loop.run_until_complete(task) == 7


@pytest.mark.parametrize("thing", [None, 42, "text", nothing, print, object()])
def test_only_coroutines(loop, flavour, thing):
    for make in (loop.create_task, lambda thing: flavour.Task(thing, loop=loop)):
        with pytest.raises(TypeError) as caught:
            make(thing)
        assert str(caught.value) == f"a coroutine was expected, got {thing!r}"


def test_a_future_is_not_a_coroutine(loop):
    future = loop.create_future()
    with pytest.raises(TypeError) as caught:
        loop.create_task(future)
    assert str(caught.value) == f"a coroutine was expected, got {future!r}"


def test_async_generators_are_not_coroutines(loop):
    async def generator():
        yield

    with pytest.raises(TypeError, match="a coroutine was expected, got <async_generator"):
        loop.create_task(generator())


def test_generator_based_coroutines(loop):
    @types.coroutine
    def old_style():
        yield
        return "old"

    if sys.version_info >= (3, 12):  # a generator no longer counts as a coroutine
        with pytest.raises(TypeError, match="a coroutine was expected, got <generator object"):
            loop.create_task(old_style())
    else:
        assert loop.run_until_complete(loop.create_task(old_style())) == "old"

    async def main():
        return await old_style()

    assert loop.run_until_complete(main()) == "old"


def test_coroutine_like_objects(loop):
    class Coroutine:
        def __init__(self):
            self.inner = nothing("like")

        def send(self, value):
            return self.inner.send(value)

        def throw(self, *args):
            return self.inner.throw(*args)

        def close(self):
            return self.inner.close()

        def __await__(self):
            return self

    collections.abc.Coroutine.register(Coroutine)
    assert loop.run_until_complete(loop.create_task(Coroutine())) == "like"


def test_already_running_coroutine(loop):
    async def main():
        return asyncio.create_task(coroutine)

    coroutine = main()
    task = loop.run_until_complete(coroutine)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        loop.run_until_complete(task)


# --- names ---------------------------------------------------------------------


def test_default_names_count_up(loop):
    tasks = [loop.create_task(nothing()) for _ in range(3)]
    names = [task.get_name() for task in tasks]
    numbers = [int(re.fullmatch(r"Task-(\d+)", name)[1]) for name in names]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]
    loop.run_until_complete(asyncio.wait(tasks))


def test_default_names_share_asyncios_counter(loop, flavour):
    first = loop.create_task(nothing())
    second = asyncio.tasks._PyTask(nothing(), loop=loop)
    third = flavour.Task(nothing(), loop=loop)
    numbers = [int(task.get_name().removeprefix("Task-")) for task in (first, third)]
    # before 3.14 asyncio's C and Python code have separate counters
    assert numbers[1] > numbers[0]
    for task in (first, second, third):
        loop.run_until_complete(task)


@pytest.mark.parametrize("name", ["given", 42, ("tuple",)])
def test_given_names_become_text(loop, flavour, name):
    tasks = [
        loop.create_task(nothing(), name=name),
        flavour.Task(nothing(), loop=loop, name=name),
    ]
    assert [task.get_name() for task in tasks] == [str(name)] * 2
    tasks[0].set_name(("new", 1))
    assert tasks[0].get_name() == "('new', 1)"
    loop.run_until_complete(asyncio.wait(tasks))


def test_name_none_means_default(loop):
    task = loop.create_task(nothing(), name=None)
    assert task.get_name().startswith("Task-")
    loop.run_until_complete(task)


def test_name_in_repr(loop):
    task = loop.create_task(nothing(), name="bob")
    assert "name='bob'" in repr(task)
    task.set_name("alice")
    assert "name='alice'" in repr(task)
    loop.run_until_complete(task)


# --- results ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 5, (1, 2), [1], StopIteration(3), ValueError("v")])
def test_result(loop, value):
    task = loop.create_task(nothing(value))
    assert loop.run_until_complete(task) is value
    assert task.result() is value
    assert task.exception() is None


def test_exception_has_its_traceback(loop):
    task = loop.create_task(fails(LookupError("x")))
    with pytest.raises(LookupError, match="x"):
        loop.run_until_complete(task)
    frames = traceback.extract_tb(task.exception().__traceback__)
    assert "fails" in [frame.name for frame in frames]


def test_stop_iteration_becomes_runtime_error(loop):
    task = loop.create_task(fails(StopIteration(1)))
    with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
        loop.run_until_complete(task)


def test_results_are_not_set_from_outside(loop):
    task = loop.create_task(nothing())
    with pytest.raises(RuntimeError) as caught:
        task.set_result(1)
    assert str(caught.value) == "Task does not support set_result operation"
    with pytest.raises(RuntimeError) as caught:
        task.set_exception(ValueError())
    assert str(caught.value) == "Task does not support set_exception operation"
    loop.run_until_complete(task)


def test_not_done_yet(loop):
    task = loop.create_task(nothing())
    with pytest.raises(asyncio.InvalidStateError) as caught:
        task.result()
    assert str(caught.value) == "Result is not set."
    with pytest.raises(asyncio.InvalidStateError) as caught:
        task.exception()
    assert str(caught.value) == "Exception is not set."
    loop.run_until_complete(task)


# --- what a coroutine may await ---------------------------------------------------


def test_bare_yield_suspends_for_one_turn(loop):
    order = []

    @types.coroutine
    def yield_once():
        yield

    async def one():
        for i in range(3):
            order.append(("one", i))
            await yield_once()

    async def two():
        for i in range(3):
            order.append(("two", i))
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(one(), two())

    loop.run_until_complete(main())
    assert order == [(name, i) for i in range(3) for name in ("one", "two")]


@pytest.mark.parametrize("thing", [1, "text", object(), [], True])
def test_yielding_invalid_objects(loop, thing):
    task = loop.create_task(yields(thing), name="t")
    with pytest.raises(RuntimeError) as caught:
        loop.run_until_complete(task)
    assert re.fullmatch(r"Task got bad yield: " + re.escape(repr(thing)), str(caught.value)), str(
        caught.value
    )


def test_yielding_a_future_without_await(loop):
    future = loop.create_future()

    task = loop.create_task(yields(future), name="t")
    with pytest.raises(RuntimeError) as caught:
        loop.run_until_complete(task)
    assert re.fullmatch(
        r"yield was used instead of yield from in task <Task pending name='t' coro=<.*> cb=\[.*\]"
        r".*> with <Future pending.*>",
        str(caught.value),
    ), str(caught.value)


def test_yielding_a_generator(loop):
    def generator():
        yield

    with pytest.raises(RuntimeError) as caught:
        loop.run_until_complete(yields(generator()))
    assert re.match(
        r"yield was used instead of yield from for generator in task <Task .*> with "
        r"<generator object .*generator at 0x|Task got bad yield: <generator object",
        str(caught.value),
    ), str(caught.value)


def test_awaiting_itself(loop):
    async def main():
        await asyncio.current_task()

    with pytest.raises(RuntimeError) as caught:
        loop.run_until_complete(main())
    assert re.match(r"Task cannot await on itself: <Task pending name='Task-", str(caught.value))


def test_awaiting_another_loops_future(loop, flavour):
    other = flavour.new_loop()
    future = other.create_future()
    with pytest.raises(RuntimeError) as caught:
        loop.run_until_complete(waits_for(future))
    assert re.match(
        r"Task <Task pending name='Task-.*> got Future <Future pending.*> attached to a different "
        r"loop",
        str(caught.value),
    )
    other.close()


@pytest.mark.parametrize("kind", ["C", "Python"])
def test_awaiting_asyncios_futures(loop, kind):
    make = asyncio.futures._CFuture if kind == "C" else asyncio.futures._PyFuture
    future = make(loop=loop)
    loop.call_later(0.002, future.set_result, kind)
    assert loop.run_until_complete(waits_for(future)) == kind
    failed = make(loop=loop)
    loop.call_soon(failed.set_exception, LookupError("f"))
    with pytest.raises(LookupError, match="f"):
        loop.run_until_complete(waits_for(failed))
    forever = make(loop=loop)
    task = loop.create_task(waits_for(forever))
    loop.call_later(0.002, task.cancel, "enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        loop.run_until_complete(task)
    assert forever.cancelled()


@pytest.mark.parametrize("kind", ["C", "Python"])
def test_misusing_asyncios_futures(loop, flavour, kind):
    make = asyncio.futures._CFuture if kind == "C" else asyncio.futures._PyFuture
    with pytest.raises(RuntimeError, match=r"yield was used instead of yield from in task <Task "):
        loop.run_until_complete(yields(make(loop=loop)))
    other = flavour.new_loop()
    with pytest.raises(RuntimeError, match=r"got Future <Future pending.*> attached to a"):
        loop.run_until_complete(waits_for(make(loop=other)))
    other.close()


@pytest.mark.parametrize("kind", ["C", "Python"])
def test_wake_ups_by_asyncios_futures_happen_in_the_tasks_context(loop, kind):
    make = asyncio.futures._CFuture if kind == "C" else asyncio.futures._PyFuture
    variable = contextvars.ContextVar("variable", default="outside")

    async def main(future):
        variable.set("inside")
        await future
        return variable.get(), asyncio.current_task()

    future = make(loop=loop)
    task = loop.create_task(main(future))
    loop.call_later(0.002, future.set_result, None)
    assert loop.run_until_complete(task) == ("inside", task)
    assert variable.get() == "outside"


@pytest.mark.parametrize("kind", ["C", "Python"])
def test_asyncios_tasks_await_ours(loop, kind):
    make = asyncio.tasks._CTask if kind == "C" else asyncio.tasks._PyTask
    future = loop.create_future()
    loop.call_later(0.002, future.set_result, kind)
    assert loop.run_until_complete(make(waits_for(future), loop=loop)) == kind
    inner = loop.create_task(sleeper())
    outer = make(waits_for(inner), loop=loop)
    loop.call_later(0.002, outer.cancel)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(outer)
    assert inner.cancelled()


@pytest.mark.parametrize("kind", ["C", "Python"])
def test_tasks_of_all_kinds_await_each_other(loop, kind):
    make = asyncio.tasks._CTask if kind == "C" else asyncio.tasks._PyTask

    async def chain(depth):
        if not depth:
            await asyncio.sleep(0.001)
            return asyncio.current_task()
        if depth % 2:
            return await make(chain(depth - 1), loop=loop)
        return await loop.create_task(chain(depth - 1))

    current = loop.run_until_complete(chain(4))
    if kind == "C" or sys.version_info < (3, 14):
        assert type(current) is make
    else:
        # From 3.14 on asyncio's Python tasks have bookkeeping separate from that of its C tasks.
        assert current is None
    assert len(asyncio.all_tasks(loop)) == 0


def test_awaiting_a_duck_typed_future(loop):
    class Duck:
        _asyncio_future_blocking = False
        callbacks = ()
        value = None

        def __await__(self):
            if self.value is None:
                self._asyncio_future_blocking = True
                yield self
            return self.value

        def get_loop(self):
            return loop

        def add_done_callback(self, function, *, context):
            self.callbacks = (*self.callbacks, (function, context))

        def result(self):
            return self.value

        def finish(self, value):
            self.value = value
            for function, context in self.callbacks:
                loop.call_soon(function, self, context=context)

        def cancel(self, msg=None):
            self.cancelled_with = msg
            return False

    duck = Duck()
    task = loop.create_task(waits_for(duck))
    drain(loop)
    assert len(duck.callbacks) == 1
    assert isinstance(duck.callbacks[0][1], contextvars.Context)
    assert task._fut_waiter is duck
    duck.finish("quack")
    assert loop.run_until_complete(task) == "quack"
    assert duck._asyncio_future_blocking is False


# --- cancelling --------------------------------------------------------------------


def test_cancel_before_the_first_step(loop):
    seen = []

    async def main():
        seen.append(1)

    task = loop.create_task(main())
    assert task.cancel() is True
    assert not task.cancelled()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert task.cancelled()
    assert seen == []


def test_cancel_while_waiting(loop):
    future = loop.create_future()
    task = loop.create_task(waits_for(future))
    drain(loop)
    assert task.cancel("reason") is True
    assert future.cancelled()
    with pytest.raises(asyncio.CancelledError) as caught:
        loop.run_until_complete(task)
    assert caught.value.args == ("reason",)
    assert task.cancelled()
    assert task.cancel() is False


def test_cancel_reaches_the_innermost_task(loop):
    inner = loop.create_task(sleeper())
    outer = loop.create_task(waits_for(inner))
    drain(loop)
    outer.cancel("deep")
    drain(loop)
    drain(loop)
    drain(loop)
    assert inner.cancelled()
    assert outer.cancelled()


def test_cancel_while_running(loop):
    async def main():
        asyncio.current_task().cancel("self")
        seen.append("still running")
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    seen = []
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(main())
    assert seen == ["still running", ("self",)]


def test_cancel_while_running_and_no_more_awaits(loop):
    async def main():
        asyncio.current_task().cancel()
        return "done"

    task = loop.create_task(main())
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert task.cancelled()


def test_cancel_when_the_wake_up_is_pending(loop):
    """The future is done but the task not yet resumed: it is cancelled and loses the value."""
    future = loop.create_future()
    task = loop.create_task(waits_for(future))
    drain(loop)
    future.set_result("value")
    assert task.cancel() is True
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert future.result() == "value"


def test_suppressed_cancellation(loop):
    async def stubborn():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "stubborn"

    task = loop.create_task(stubborn())
    drain(loop)
    task.cancel()
    assert loop.run_until_complete(task) == "stubborn"
    assert not task.cancelled()


def test_cleanup_may_await(loop):
    async def tidy():
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.001)
            seen.append("tidied")

    seen = []
    task = loop.create_task(tidy())
    drain(loop)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert seen == ["tidied"]


def test_cancelled_error_raised_explicitly(loop):
    task = loop.create_task(fails(asyncio.CancelledError("mine")))
    with pytest.raises(asyncio.CancelledError, match="mine"):
        loop.run_until_complete(task)
    assert task.cancelled()


def test_cancelled_error_keeps_its_traceback(loop):
    async def main():
        await sleeper()

    task = loop.create_task(main())
    drain(loop)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        loop.run_until_complete(task)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "sleeper" in names
    del caught


def test_cancelling_and_uncancel(loop):
    async def main():
        task = asyncio.current_task()
        counts = [task.cancelling()]
        task.cancel()
        task.cancel()
        counts.append(task.cancelling())
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(1)
        counts += [task.uncancel(), task.cancelling(), task.uncancel(), task.uncancel()]
        return counts

    assert loop.run_until_complete(main()) == [0, 2, 1, 1, 0, 0]


def test_uncancel_before_the_next_await(loop):
    async def main():
        task = asyncio.current_task()
        task.cancel()
        task.uncancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return "cancelled"
        return "went on"

    expected = "went on" if sys.version_info >= (3, 13) else "cancelled"
    assert loop.run_until_complete(main()) == expected


def test_cancelling_counts_requests_of_waiting_tasks(loop):
    task = loop.create_task(sleeper())
    drain(loop)
    assert task.cancelling() == 0
    task.cancel()
    task.cancel()
    assert task.cancelling() == 2
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert task.cancel() is False
    assert task.cancelling() == 2


def test_cleaned_up_when_cancelled_at_any_await(loop):
    """Cancelled at its n-th step, for every n: it is cleaned up exactly once each time."""

    async def work(log):
        log.append("enter")
        try:
            for _ in range(4):
                await asyncio.sleep(0)
            future = loop.create_future()
            loop.call_soon(lambda: future.done() or future.set_result(None))
            await future
            return "finished"
        finally:
            log.append("leave")

    outcomes = []
    for steps in range(9):
        log = []
        task = loop.create_task(work(log))
        for _ in range(steps):
            drain(loop)
        task.cancel()
        try:
            outcomes.append(loop.run_until_complete(task))
        except asyncio.CancelledError:
            outcomes.append("cancelled")
        assert log in ([], ["enter", "leave"])
        assert (log == []) is (steps == 0)
    assert outcomes == ["cancelled"] * 7 + ["finished"] * 2


# --- current_task, all_tasks ---------------------------------------------------------


def test_current_task(loop):
    async def main():
        return asyncio.current_task()

    task = loop.create_task(main())
    assert loop.run_until_complete(task) is task
    assert asyncio.current_task(loop) is None
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.current_task()


def test_no_current_task_in_callbacks(loop):
    seen = []

    async def main():
        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        asyncio.current_task().add_done_callback(lambda t: seen.append(asyncio.current_task()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    drain(loop)
    assert seen == [None, None]


def test_current_task_after_a_switch(loop):
    async def check(depth):
        me = asyncio.current_task()
        if depth:
            await asyncio.gather(check(depth - 1), check(depth - 1))
        await asyncio.sleep(0)
        assert asyncio.current_task() is me

    loop.run_until_complete(check(4))


def test_current_task_during_a_failed_step(loop):
    async def bad():
        raise ZeroDivisionError

    task = loop.create_task(bad())
    drain(loop)
    assert asyncio.current_task(loop) is None
    assert isinstance(task.exception(), ZeroDivisionError)


def test_all_tasks(loop):
    async def main():
        tasks = {asyncio.create_task(sleeper()) for _ in range(3)}
        me = asyncio.current_task()
        assert asyncio.all_tasks() == tasks | {me}
        assert asyncio.all_tasks(loop) == tasks | {me}
        one = tasks.pop()
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        assert asyncio.all_tasks() == tasks | {me}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert asyncio.all_tasks() == {me}

    loop.run_until_complete(main())
    assert asyncio.all_tasks(loop) == set()


def test_all_tasks_is_per_loop(loop, flavour):
    other = flavour.new_loop()
    mine, theirs = loop.create_task(nothing()), other.create_task(nothing())
    assert asyncio.all_tasks(loop) == {mine}
    assert asyncio.all_tasks(other) == {theirs}
    loop.run_until_complete(mine)
    other.run_until_complete(theirs)
    other.close()


def test_all_tasks_does_not_keep_tasks_alive(loop):
    """Tasks are held weakly: an unreferenced one is freed."""
    drain(loop)
    task = loop.create_task(nothing())
    gone = weakref.ref(task)
    loop.run_until_complete(task)
    del task
    gc.collect()
    assert gone() is None


def test_done_tasks_are_not_listed(loop):
    task = loop.create_task(nothing())
    loop.run_until_complete(task)
    assert asyncio.all_tasks(loop) == set()


def test_tasks_of_all_kinds_are_listed(loop, flavour):
    tasks = [
        loop.create_task(nothing()),
        asyncio.tasks._CTask(nothing(), loop=loop),
        asyncio.tasks._PyTask(nothing(), loop=loop),
        flavour.Task(nothing(), loop=loop),
    ]
    # From 3.14 on asyncio's Python tasks have bookkeeping separate from that of its C tasks.
    apart = {tasks[2]} if sys.version_info >= (3, 14) else set()
    assert asyncio.all_tasks(loop) == set(tasks) - apart
    loop.run_until_complete(asyncio.wait(tasks))
    assert asyncio.all_tasks(loop) == set()


# --- contexts -----------------------------------------------------------------------


def test_a_task_has_a_copy_of_the_context(loop):
    async def main():
        before = VAR.get()
        VAR.set("inside")
        await asyncio.sleep(0)
        return before, VAR.get()

    token = VAR.set("outside")
    task = loop.create_task(main())
    VAR.reset(token)
    assert loop.run_until_complete(task) == ("outside", "inside")
    assert VAR.get() == "default"


def test_a_task_in_a_given_context(loop, flavour):
    async def main():
        VAR.set("written")

    context = contextvars.copy_context()
    task = loop.create_task(main(), context=context)
    loop.run_until_complete(task)
    assert context[VAR] == "written"
    other = contextvars.copy_context()
    loop.run_until_complete(flavour.Task(main(), loop=loop, context=other))
    assert other[VAR] == "written"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12")
def test_get_context(loop):
    context = contextvars.copy_context()
    task = loop.create_task(nothing(), context=context)
    assert task.get_context() is context
    other = loop.create_task(nothing())
    assert isinstance(other.get_context(), contextvars.Context)
    loop.run_until_complete(asyncio.wait([task, other]))


def test_done_callbacks_have_their_own_context(loop):
    seen = []
    task = loop.create_task(nothing())
    token = VAR.set("callback")
    task.add_done_callback(lambda t: seen.append(VAR.get()))
    VAR.reset(token)
    loop.run_until_complete(task)
    drain(loop)
    assert seen == ["callback"]


def test_wake_ups_happen_in_the_tasks_context(loop):
    async def main():
        VAR.set("mine")
        await future
        return VAR.get()

    future = loop.create_future()
    task = loop.create_task(main())
    drain(loop)
    VAR.set("other")
    future.set_result(None)
    try:
        assert loop.run_until_complete(task) == "mine"
    finally:
        VAR.set("default")


# --- introspection --------------------------------------------------------------------


def test_get_coro(loop):
    coroutine = nothing()
    task = loop.create_task(coroutine)
    assert task.get_coro() is coroutine
    assert task._coro is coroutine
    loop.run_until_complete(task)
    assert task.get_coro() is coroutine


def test_attributes_that_libraries_read(loop):
    future = loop.create_future()
    task = loop.create_task(waits_for(future))
    assert task._must_cancel is False
    assert task._fut_waiter is None
    assert task._loop is loop
    task.cancel()
    assert task._must_cancel is True
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    task = loop.create_task(waits_for(future))
    drain(loop)
    assert task._fut_waiter is future
    future.set_result(None)
    loop.run_until_complete(task)
    assert task._fut_waiter is None
    assert task._must_cancel is False


def test_get_stack(loop):
    async def inner():
        await asyncio.sleep(3600)

    async def outer():
        await inner()

    task = loop.create_task(outer())
    drain(loop)
    frames = task.get_stack()
    assert [frame.f_code.co_name for frame in frames] == ["outer"]
    assert frames[0].f_lineno == line(outer) + 1
    assert task.get_stack(limit=1) == frames
    settle(loop, task)
    assert task.get_stack() == []


def test_get_stack_of_a_failed_task(loop):
    def deeper():
        raise ZeroDivisionError

    async def main():
        deeper()

    task = loop.create_task(main())
    drain(loop)
    names = [frame.f_code.co_name for frame in task.get_stack()]
    assert names[-2:] == ["main", "deeper"]
    assert len(task.get_stack(limit=1)) == 1
    task.exception()


def test_print_stack(loop):
    task = loop.create_task(sleeper(), name="napper")
    drain(loop)
    file = io.StringIO()
    task.print_stack(file=file)
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("Stack for <Task pending name='napper' coro=<sleeper() running at ")
    assert lines[0].endswith("(most recent call last):")
    assert lines[1:] == [
        f'  File "{__file__}", line {line(sleeper) + 1}, in sleeper',
        "    await asyncio.sleep(3600)",
    ]
    settle(loop, task)
    file = io.StringIO()
    task.print_stack(file=file)
    assert file.getvalue() == f"No stack for {task!r}\n"


def test_print_stack_of_a_failed_task(loop):
    task = loop.create_task(fails(ZeroDivisionError("printed")))
    drain(loop)
    file = io.StringIO()
    task.print_stack(file=file)
    printed = file.getvalue()
    assert printed.startswith("Traceback for <Task finished name='Task-")
    assert printed.endswith("    raise error\nZeroDivisionError: printed\n")
    task.exception()


# --- repr --------------------------------------------------------------------------------


def test_repr_before_it_runs(loop):
    task = loop.create_task(nothing(), name="t")
    place = f"{__file__}:{line(nothing)}"
    assert text(task) == f"<Task pending name='t' coro=<nothing() running at {place}>>"
    loop.run_until_complete(task)
    assert text(task) == (
        f"<Task finished name='t' coro=<nothing() done, defined at {place}> result=None>"
    )


def test_repr_while_waiting(loop):
    future = loop.create_future()
    task = loop.create_task(waits_for(future), name="t")
    drain(loop)
    place = f"{__file__}:{line(waits_for) + 1}"
    created = r"( created at \S+:\d+)?"
    assert re.fullmatch(
        rf"<Task pending name='t' coro=<waits_for\(\) running at {re.escape(place)}> "
        rf"wait_for=<Future pending cb=\[Task\.task_wakeup\(\)\]{created}>{created}>",
        repr(task),
    ), repr(task)
    future.set_result(None)
    loop.run_until_complete(task)


def test_repr_with_callbacks(loop):
    def callback(task):
        pass

    task = loop.create_task(nothing(), name="t")
    task.add_done_callback(callback)
    name = "test_repr_with_callbacks.<locals>.callback()"
    assert f" cb=[{name} at {__file__}:{line(callback)}]" in text(task)
    loop.run_until_complete(task)
    assert "cb=" not in text(task)


def test_repr_of_a_failed_task(loop):
    task = loop.create_task(fails(ValueError("x")), name="t")
    drain(loop)
    place = f"{__file__}:{line(fails)}"
    assert text(task) == (
        f"<Task finished name='t' coro=<fails() done, defined at {place}> "
        "exception=ValueError('x')>"
    )
    task.exception()


def test_repr_of_cancelled_tasks(loop):
    task = loop.create_task(sleeper(), name="t")
    drain(loop)
    task.cancel()
    place = f"{__file__}:{line(sleeper) + 1}"
    assert text(task).startswith(f"<Task cancelling name='t' coro=<sleeper() running at {place}>")
    settle(loop, task)
    place = f"{__file__}:{line(sleeper)}"
    assert text(task) == f"<Task cancelled name='t' coro=<sleeper() done, defined at {place}>>"


def test_repr_says_cancelling(loop):
    task = loop.create_task(nothing(), name="t")
    task.cancel()
    assert text(task).startswith("<Task cancelling name='t' coro=<nothing() running at ")
    settle(loop, task)


def test_repr_agrees_with_asyncios(loop):
    """The same states of the same coroutine in our Task and in the C Task."""
    shown = []
    for make in (
        lambda c: loop.create_task(c, name="same"),
        lambda c: asyncio.tasks._CTask(c, loop=loop, name="same"),
    ):
        future = asyncio.futures._CFuture(loop=loop)
        task = make(waits_for(future))
        moments = [repr(task)]
        drain(loop)
        moments.append(repr(task))
        future.set_result("r" * 500)
        moments.append(repr(task))
        loop.run_until_complete(task)
        moments.append(repr(task))
        shown.append([re.sub(r"created at \S+:\d+", "created at", m) for m in moments])
    assert shown[0] == shown[1]


# --- end of life --------------------------------------------------------------------------


def test_destroyed_while_pending(loop):
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    future = asyncio.futures._PyFuture(loop=loop)

    async def main():
        await future

    task = loop.create_task(main(), name="lost")
    drain(loop)
    # Only the future's callback refers to the task.
    future._callbacks.clear()
    reported_repr = text(task)
    del task
    gc.collect()
    loop.set_exception_handler(None)
    (context,) = reported
    assert context["message"] == "Task was destroyed but it is pending!"
    assert text(context["task"]) == reported_repr
    assert sorted(context) == ["message", *["source_traceback"] * loop.get_debug(), "task"]
    reported.clear()


def test_log_destroy_pending_may_be_cleared(loop, log):
    future = asyncio.futures._PyFuture(loop=loop)
    task = loop.create_task(waits_for(future))
    drain(loop)
    assert task._log_destroy_pending is True
    task._log_destroy_pending = False
    future._callbacks.clear()
    del task
    gc.collect()
    assert log.messages() == []


def test_unretrieved_exception(loop, log):
    task = loop.create_task(fails(ZeroDivisionError("lost")), name="loser")
    drain(loop)
    del task
    gc.collect()
    (record,) = log.take()
    lines = record.getMessage().splitlines()
    assert lines[0] == "Task exception was never retrieved"
    assert lines[1].startswith("future: <Task finished name='loser' coro=<fails() done, defined at")
    assert record.exc_info[0] is ZeroDivisionError


def test_weak_references(loop):
    task = loop.create_task(nothing())
    gone = []
    reference = weakref.ref(task, gone.append)
    assert reference() is task
    loop.run_until_complete(task)
    del task
    gc.collect()
    assert reference() is None
    assert gone == [reference]


def test_a_done_task_releases_its_coroutine(loop):
    class Thing:
        pass

    async def main(thing):
        await asyncio.sleep(0)

    thing = Thing()
    gone = weakref.ref(thing)
    task = loop.create_task(main(thing))
    del thing
    loop.run_until_complete(task)
    gc.collect()
    assert gone() is None


def test_cycles_through_a_task(loop):
    class Thing:
        pass

    async def main(thing):
        return thing

    thing = Thing()
    thing.task = loop.create_task(main(thing))
    gone = weakref.ref(thing)
    loop.run_until_complete(thing.task)
    del thing
    gc.collect()
    assert gone() is None


# --- subclasses, generics, factories ----------------------------------------------------------


def test_subclass(loop, flavour):
    class Sub(flavour.Task):
        def __init__(self, *args, **kwargs):
            self.extra = "extra"
            super().__init__(*args, **kwargs)

        def cancel(self, msg=None):
            cancelled.append(msg)
            return super().cancel(msg)

    cancelled = []
    task = Sub(sleeper(), loop=loop, name="sub")
    assert isinstance(task, asyncio.Task)
    assert repr(task).startswith("<Sub pending name='sub'")
    outer = loop.create_task(waits_for(task))
    drain(loop)
    outer.cancel("through")
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(outer)
    assert task.cancelled()
    assert task.extra == "extra"


def test_class_getitem(flavour):
    alias = flavour.Task[str]
    assert isinstance(alias, types.GenericAlias)
    assert alias.__origin__ is flavour.Task
    assert alias.__args__ == (str,)


def test_task_factory(loop, flavour):
    made = []

    def factory(loop, coro, **kwargs):
        made.append(sorted(kwargs))
        return flavour.Task(coro, loop=loop, **kwargs)

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    task = loop.create_task(nothing(1), name="made", context=contextvars.copy_context())
    assert task.get_name() == "made"
    assert loop.run_until_complete(task) == 1
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None
    assert "context" in made[0]


def test_task_factory_without_keywords(loop, flavour):
    loop.set_task_factory(lambda loop, coro, **kwargs: flavour.Task(coro, loop=loop))
    task = loop.create_task(nothing(2))
    assert loop.run_until_complete(task) == 2
    loop.set_task_factory(None)


def test_task_factory_must_be_callable(loop):
    with pytest.raises(TypeError) as caught:
        loop.set_task_factory(42)
    assert str(caught.value) == "task factory must be a callable or None"


def test_task_factory_that_fails(loop):
    def factory(loop, coro, **kwargs):
        raise LookupError("no tasks today")

    loop.set_task_factory(factory)
    coroutine = nothing()
    with pytest.raises(LookupError, match="no tasks today"):
        loop.create_task(coroutine)
    coroutine.close()
    loop.set_task_factory(None)


def test_factory_is_used_everywhere(run):
    async def main():
        loop = asyncio.get_running_loop()
        made = []

        def factory(loop, coro, **kwargs):
            made.append(coro.__name__)
            return asyncio.tasks._PyTask(coro, loop=loop, **kwargs)

        loop.set_task_factory(factory)
        await asyncio.gather(nothing(), nothing())
        await asyncio.ensure_future(nothing())
        async with asyncio.TaskGroup() as group:
            group.create_task(nothing())
        loop.set_task_factory(None)
        return made

    assert run(main()) == ["nothing"] * 4


def test_create_task_arguments(loop):
    for bad in (lambda: loop.create_task(), lambda: loop.create_task(None, None)):
        with pytest.raises(TypeError):
            bad()


def test_public_names(flavour):
    reference = {n for n in dir(asyncio.tasks._CTask) if not n.startswith("_")}
    # get_context() came in 3.12; ours has it in 3.11 too.
    assert {n for n in dir(flavour.Task) if not n.startswith("_")} - {"get_context"} == (
        reference - {"get_context"}
    )
