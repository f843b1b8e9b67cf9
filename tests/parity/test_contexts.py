"""Each callback or task runs in its own copy of the context, whether it is inspected or not."""

import asyncio
import contextvars
import gc
import sys
import weakref

NUMBER = contextvars.ContextVar("NUMBER", default=0)


def test_callbacks_of_one_context_do_not_see_each_other(loop):
    seen = []

    def count():
        NUMBER.set(NUMBER.get() + 1)
        seen.append(NUMBER.get())

    for _ in range(5):
        loop.call_soon(count)
    loop.call_later(0, count)
    loop.call_soon_threadsafe(count)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert seen == [1] * 7
    assert NUMBER.get() == 0


def test_later_changes_are_not_seen(loop):
    seen = []

    def schedule():
        for value in range(3):
            NUMBER.set(value)
            loop.call_soon(lambda: seen.append(NUMBER.get()))
        NUMBER.set(99)
        loop.call_soon(loop.stop)

    contextvars.copy_context().run(schedule)
    loop.run_forever()
    assert seen == [0, 1, 2]


def test_a_handle_keeps_the_context_that_its_callback_ran_in(loop):
    handles, entered = [], []

    def change(value):
        NUMBER.set(value)
        try:
            handles[value]._context.run(int)
        except RuntimeError as error:
            entered.append("already entered" in str(error))

    for value in range(3):
        handles.append(loop.call_soon(change, value))
    seen_before = handles[1]._context
    assert seen_before is handles[1]._context
    assert len({id(handle._context) for handle in handles[1:]}) == 2
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert [handle._context[NUMBER] for handle in handles] == [0, 1, 2]
    assert handles[1]._context is seen_before
    assert entered == [True] * 3


def test_a_task_keeps_the_context_that_it_ran_in(run):
    async def change(value, steps):
        NUMBER.set(value)
        for _ in range(steps):
            await asyncio.sleep(0)
        return contextvars.copy_context()[NUMBER]

    async def leave():
        return NUMBER.get()

    async def main():
        tasks = [asyncio.create_task(change(value, value % 3)) for value in range(6)]
        unchanged = [asyncio.create_task(leave()) for _ in range(3)]
        assert await asyncio.gather(*tasks, *unchanged) == [*range(6), 0, 0, 0]
        if hasattr(asyncio.Task, "get_context"):
            contexts = [task.get_context() for task in (*tasks, *unchanged)]
            assert len({id(context) for context in contexts}) == 9
            assert [context.get(NUMBER, 0) for context in contexts] == [*range(6), 0, 0, 0]
            assert unchanged[0].get_context() is contexts[6]
            # Later changes to one of them affect neither the others nor new contexts.
            contexts[6].run(NUMBER.set, 7)
            assert unchanged[1].get_context().get(NUMBER, 0) == 0
            assert await asyncio.create_task(leave()) == 0
        assert NUMBER.get() == 0

    run(main())


def test_a_context_seen_while_entered_is_not_reused(loop):
    kept = []

    def look(index):
        kept.append(handles[index]._context)

    handles = [loop.call_soon(look, index) for index in range(3)]
    loop.call_soon(handles.clear)
    seen = []
    loop.call_soon(lambda: loop.call_soon(lambda: (seen.append(NUMBER.get()), loop.stop())))
    loop.call_soon(lambda: [context.run(NUMBER.set, 5) for context in kept])
    loop.run_forever()
    assert len({id(context) for context in kept}) == 3
    assert seen == [0]


def test_contexts_keep_no_values_alive(run):
    class Value:
        pass

    async def main():
        loop = asyncio.get_running_loop()
        held = contextvars.ContextVar("held")
        references = []

        def schedule():
            value = Value()
            references.append(weakref.ref(value))
            held.set(value)
            loop.call_soon(int)

        for _ in range(3):
            loop.call_soon(schedule)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
        assert [reference() for reference in references] == [None] * 3

    run(main())


def test_awaiting_a_result_raises_a_proper_stop_iteration(run):
    """Code that drives the future sees the value, the arguments and the context."""

    class Driven:
        def __init__(self, future):
            self.future = future

        def __await__(self):
            iterator = self.future.__await__()
            try:
                yield next(iterator)
                next(iterator)
            except StopIteration as stop:
                return stop.value, stop.args, stop.__context__

    async def main():
        loop = asyncio.get_running_loop()
        for result in (1, (1, 2), ValueError("a value"), "text", [3]):
            future = loop.create_future()
            loop.call_soon(future.set_result, result)
            assert await Driven(future) == (result, (result,), None)
            future = loop.create_future()
            loop.call_soon(future.set_result, result)
            assert await future is result
            try:
                raise KeyError
            except KeyError:
                future = loop.create_future()
                loop.call_soon(future.set_result, result)
                assert await future is result

    run(main())


def test_a_profiler_sees_the_loop_sleep_in_another_context(flavour):
    """pyinstrument interprets that correctly: the task awaits something."""
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    def profile(frame, event, argument):
        if event == "call":
            seen.append(variable.get())

    async def main():
        variable.set("inside")
        sys.setprofile(profile)
        try:
            # Long enough that the loop has to sleep, on an emulated processor too.
            await asyncio.sleep(0.05)
        finally:
            sys.setprofile(None)

    before = sys.getprofile()
    try:
        flavour.run(main())
    finally:
        sys.setprofile(before)
    assert "inside" in seen
    assert "outside" in seen[seen.index("inside") :]
