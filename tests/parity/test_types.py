"""Future and Task as types: classes, attributes, signatures, and manually driven awaiters."""

import asyncio
import asyncio.futures
import asyncio.tasks
import copy
import functools
import gc
import inspect
import operator
import re
import sys
import types
import weakref

import pytest


async def nothing(result=None):
    return result


class Trampoline:
    """An awaitable that drives a coroutine and sends a value in reply to each of its yields."""

    def __init__(self, coroutine, answer="resumed"):
        self.coroutine = coroutine
        self.answer = answer

    def __await__(self):
        value = None
        while True:
            try:
                yielded = self.coroutine.send(value)
            except StopIteration as stop:
                return stop.value
            yield yielded
            value = self.answer


def asyncio_class(name):
    """asyncio's own class, even if it has been replaced."""
    return getattr(sys.modules["_asyncio"], name)


# Classes


def test_self_class_of_a_subclass_is_the_subclass(flavour):
    class Counted(flavour.Task):
        count = 0

        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.__class__.count += 1

        def again(self, coroutine):
            return self.__class__(coroutine, loop=self.get_loop())

    class Reply(flavour.Future):
        kind = "reply"

        def describe(self):
            return f"{self.__class__.__name__}:{self.__class__.kind}"

    async def main():
        loop = asyncio.get_running_loop()
        task = Counted(nothing(1), loop=loop)
        other = task.again(nothing(2))
        assert Counted.count == 2
        assert type(other) is Counted
        assert other.__class__ is Counted
        assert await task + await other == 3
        reply = Reply(loop=loop)
        assert reply.describe() == "Reply:reply"
        assert isinstance(task, asyncio.Task)
        assert isinstance(task, asyncio.Future)
        assert isinstance(task, Counted)
        assert isinstance(reply, asyncio.Future)
        assert not isinstance(reply, asyncio.Task)
        assert asyncio.isfuture(task)
        assert asyncio.isfuture(reply)

    flavour.run(main())


def test_dispatch_uses_the_most_derived_class(flavour):
    class Special(flavour.Task):
        pass

    class MoreSpecial(Special):
        pass

    @functools.singledispatch
    def kind(_):
        return "object"

    kind.register(asyncio.Task, lambda _: "task")
    kind.register(Special, lambda _: "special")

    async def main():
        loop = asyncio.get_running_loop()
        plain = loop.create_task(nothing())
        special = Special(nothing(), loop=loop)
        more = MoreSpecial(nothing(), loop=loop)
        assert [kind(plain), kind(special), kind(more)] == ["task", "special", "special"]
        match plain:
            case asyncio.Task():
                pass
            case _:
                raise AssertionError("no task")
        match special:
            case asyncio.Task():
                pass
            case _:
                raise AssertionError("no task")
        await asyncio.gather(plain, special, more)

    flavour.run(main())


def test_the_class_of_an_instance_can_be_changed(flavour):
    class One(flavour.Future):
        pass

    class Other(flavour.Future):
        pass

    loop = flavour.new_loop()
    future = One(loop=loop)
    future.__class__ = Other
    assert type(future) is Other
    with pytest.raises(TypeError, match="must be set to a class"):
        future.__class__ = 1
    loop.close()


def test_instances_report_a_replaced_class(flavour, monkeypatch):
    """nest_asyncio replaces both by asyncio's Python classes, which programs then check for."""
    monkeypatch.setattr(asyncio.tasks, "Task", asyncio.tasks._PyTask)
    monkeypatch.setattr(asyncio, "Task", asyncio.tasks._PyTask)
    monkeypatch.setattr(asyncio.futures, "Future", asyncio.futures._PyFuture)
    monkeypatch.setattr(asyncio, "Future", asyncio.futures._PyFuture)

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(nothing(1))
        future = loop.create_future()
        if sys.version_info < (3, 12) and flavour.is_asyncio:
            future = asyncio.Future(loop=loop)  # there `create_future()` still uses the old class
        assert isinstance(task, asyncio.Task)
        assert isinstance(task, asyncio.Future)
        assert isinstance(asyncio.ensure_future(future), asyncio.Future)
        assert await task == 1

    loop = flavour.new_loop()
    loop.run_until_complete(main())
    loop.close()


# Attributes


EXTRA = {"__dict__", "_cancelled_exc", "_context", "_num_cancels_requested"}
"""Attributes of asyncio's Python classes, which its classes in C do without."""
EXTRA |= {"__slotnames__"}  # which copying leaves on mutable classes
if sys.version_info < (3, 12):
    EXTRA |= {"get_context", "__module__"}


@pytest.mark.parametrize("name", ["Future", "Task"])
def test_attributes_are_those_of_asyncio(flavour, name):
    found, expected = set(dir(getattr(flavour, name))), set(dir(asyncio_class(name)))
    assert expected - found == set()
    assert found - expected <= EXTRA


@pytest.mark.parametrize("name", ["Future", "Task"])
def test_signatures_are_those_of_asyncio(flavour, name):
    own, reference = getattr(flavour, name), asyncio_class(name)
    assert str(inspect.signature(own)) == str(inspect.signature(reference))
    for attribute in sorted(set(dir(reference)) - {"__class_getitem__"}):
        expected = inspect.getattr_static(reference, attribute)
        if not callable(expected) or isinstance(expected, type):
            continue
        try:
            signature = inspect.signature(expected)
        except ValueError:
            continue  # asyncio's text cannot be parsed
        found = inspect.signature(inspect.getattr_static(own, attribute))
        assert str(found) == str(signature), attribute


@pytest.mark.parametrize("name", ["Future", "Task"])
@pytest.mark.parametrize("value", [None, 0, 1, "x", True, False, [], "delete"], ids=repr)
def test_setting_attributes(flavour, name, value):
    """Each attribute accepts, shows and refuses the same values as asyncio's."""

    def attempt(cls, loop, attribute):
        coroutine = asyncio.sleep(0)
        made = cls(coroutine, loop=loop) if name == "Task" else cls(loop=loop)
        try:
            if value == "delete":
                delattr(made, attribute)
            else:
                setattr(made, attribute, value)
            return getattr(made, attribute)
        except Exception as error:
            # A descriptor of a base class names that class.
            return type(error), re.sub(r"'[\w.]+' obj", "'...' obj", str(error))
        finally:
            coroutine.close()
            if name == "Task":
                made._log_destroy_pending = False

    loop = flavour.new_loop()
    reference = asyncio_class(name)
    for attribute in sorted(set(dir(reference)) - {"_coro", "__class__"}):
        if isinstance(inspect.getattr_static(reference, attribute), types.GetSetDescriptorType):
            found = attempt(getattr(flavour, name), loop, attribute)
            assert found == attempt(reference, loop, attribute), attribute
    loop.close()


def test_the_coroutine_of_a_task_can_be_replaced(flavour):
    """As greenback does: it assigns the attribute, as on asyncio's Python class, or else writes
    into the memory of asyncio's C class."""
    loop = flavour.new_loop()

    async def first():
        return "first"

    async def second(inner):
        return "second, " + await inner

    coroutine = first()
    task = flavour.Task(coroutine, loop=loop)
    if flavour.is_asyncio:
        with pytest.raises(AttributeError, match="is not writable"):
            task._coro = coroutine
        assert loop.run_until_complete(task) == "first"
    else:
        task._coro = outer = second(coroutine)
        assert task.get_coro() is outer
        assert loop.run_until_complete(task) == "second, first"
    loop.close()


@pytest.mark.parametrize("name", ["loop", "eager_start", "wrong"])
def test_keywords_of_create_task(flavour, name):
    """Accepted as by the running version, with the same texts."""
    expected = inspect.signature(asyncio.BaseEventLoop.create_task).parameters.values()
    by_any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in expected)
    taken = name == "eager_start" and by_any_name

    async def main():
        loop = asyncio.get_running_loop()
        for value in (None, False, True):
            coroutine = nothing(1)
            if taken:
                task = loop.create_task(coroutine, **{name: value})
                assert task.done() is bool(value)
                assert await task == 1
                continue
            with pytest.raises(TypeError) as refused:
                made = loop.create_task(coroutine, **{name: value})
                assert made is None
            coroutine.close()
            own = asyncio.SelectorEventLoop()
            coroutine = nothing(1)
            with pytest.raises(TypeError) as by_asyncio:
                made = own.create_task(coroutine, **{name: value})
                assert made is None
            coroutine.close()
            own.close()
            assert str(refused.value) == str(by_asyncio.value)

    flavour.run(main())


@pytest.mark.parametrize("name", ["Future", "Task"])
@pytest.mark.parametrize("keyword", ["wrong", "eager_start"])
def test_keywords_of_the_classes(flavour, name, keyword):
    loop = flavour.new_loop()
    if name == "Task" and keyword == "eager_start" and sys.version_info >= (3, 12):
        task = flavour.Task(nothing(1), loop=loop, eager_start=True)
        assert loop.run_until_complete(task) == 1
        loop.close()
        return
    coroutine = nothing()
    arguments = (coroutine,) if name == "Task" else ()
    with pytest.raises(TypeError) as refused:
        getattr(flavour, name)(*arguments, loop=loop, **{keyword: True})
    with pytest.raises(TypeError) as by_asyncio:
        asyncio_class(name)(*arguments, loop=loop, **{keyword: True})
    assert str(refused.value) == str(by_asyncio.value)
    coroutine.close()
    loop.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
def test_an_eager_factory_can_be_overridden(flavour):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        task = loop.create_task(nothing())
        assert task.done()
        if sys.version_info >= (3, 14):
            for value in (None, False):
                task = loop.create_task(nothing(), eager_start=value)
                assert not task.done()
                await task

    flavour.run(main())


# Awaiters


@pytest.mark.parametrize("answer", ["resumed", 0, (1, 2), ValueError("value")], ids=repr)
def test_values_sent_into_a_coroutine_that_awaits_a_future(flavour, answer):
    async def work(result):
        await asyncio.sleep(0.001)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, result)
        return await future

    async def on_task(result):
        return await asyncio.create_task(work(result))

    async def on_subclass(cls, result):
        future = cls(loop=asyncio.get_running_loop())
        asyncio.get_running_loop().call_soon(future.set_result, result)
        return await future

    class Special(flavour.Future):
        pass

    async def main():
        assert await Trampoline(work(3), answer) == 3
        assert await Trampoline(asyncio.wait_for(work(4), 1), answer) == 4
        assert await Trampoline(on_task(5), answer) == 5
        assert await Trampoline(on_subclass(Special, 6), answer) == 6

    flavour.run(main())


@pytest.mark.parametrize("attribute", ["send", "throw", "close", "__next__"])
def test_a_future_does_not_look_like_a_coroutine(flavour, attribute):
    class Special(flavour.Future):
        pass

    loop = flavour.new_loop()
    for future in (loop.create_future(), Special(loop=loop)):
        assert not hasattr(future, attribute)
        assert not hasattr(type(future), attribute)
        with pytest.raises(AttributeError, match=f"no attribute '{attribute}'"):
            getattr(future, attribute)
        with pytest.raises(AttributeError, match=f"no attribute '{attribute}'"):
            operator.attrgetter(attribute)(future)
    assert not asyncio.iscoroutine(loop.create_future())
    loop.close()


def with_awaiter_attributes(calls):
    return {
        "send": lambda *arguments: calls.append("send"),
        "throw": lambda *arguments: calls.append("throw"),
        "close": lambda *arguments: calls.append("close"),
    }


@pytest.mark.parametrize("base", ["Future", "Task"])
@pytest.mark.parametrize("on", ["instance", "class"])
def test_attributes_named_like_an_awaiters_are_not_called(flavour, base, on):
    calls = []
    cls = getattr(flavour, base)
    if on == "class":
        cls = type("Named", (cls,), with_awaiter_attributes(calls))

    async def waits(future):
        try:
            return await future
        except LookupError as error:
            return error

    def make(loop):
        made = cls(asyncio.sleep(3600), loop=loop) if base == "Task" else cls(loop=loop)
        if on == "instance":
            for name, value in with_awaiter_attributes(calls).items():
                setattr(made, name, value)
        return made

    async def main():
        loop = asyncio.get_running_loop()
        made = [make(loop) for _ in range(3)]
        closed = waits(made[0])
        assert closed.send(None) is made[0]
        closed.close()
        made[0]._asyncio_future_blocking = False
        thrown = waits(made[1])
        assert thrown.send(None) is made[1]
        with pytest.raises(StopIteration) as stop:
            thrown.throw(KeyError("thrown"))
        assert repr(stop.value.value) == "KeyError('thrown')"
        made[1]._asyncio_future_blocking = False
        if base == "Future":
            loop.call_soon(made[2].set_result, "result")
        else:
            loop.call_soon(made[2].cancel)
        try:
            assert await Trampoline(waits(made[2])) == "result"
        except asyncio.CancelledError:
            assert base == "Task"
        for future in made:
            future.cancel()
        await asyncio.sleep(0)
        assert calls == []

    flavour.run(main())


def lines_seen(function, run):
    """The events, lines and instructions of a function that a tracer sees."""
    seen = []

    def trace(frame, event, _):
        if frame.f_code is not function.__code__:
            return None
        seen.append((event, frame.f_lineno - function.__code__.co_firstlineno, frame.f_lasti))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return seen


async def fails():
    await asyncio.sleep(0)
    raise KeyError("k")


async def catches(make):
    try:
        await make()
    except (KeyError, asyncio.CancelledError):
        return 1
    return 2


def cancelled_future():
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    return future


def cancelled_soon():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    return future


def cancelled_task():
    task = asyncio.get_running_loop().create_task(asyncio.sleep(3600))
    asyncio.get_running_loop().call_soon(task.cancel)
    return task


@pytest.mark.parametrize(
    "make",
    [
        lambda: asyncio.get_running_loop().create_task(fails()),
        cancelled_future,
        cancelled_soon,
        cancelled_task,
        fails,
    ],
    ids=["failing task", "cancelled future", "future cancelled later", "cancelled task", "failing"],
)
def test_instructions_that_a_tracer_sees(flavour, make):
    """3.11 leaves the `await` before it raises if the awaiter has a throw(); branch coverage shows
    the difference."""
    found = lines_seen(catches, lambda: flavour.run(catches(make)))
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        expected = lines_seen(catches, lambda: runner.run(catches(make)))
    assert found == expected


# Task registries


def names(tasks):
    return sorted(task.get_name() for task in tasks)


def register():
    """asyncio's set of the tasks that were scheduled."""
    after_3_11 = sys.version_info >= (3, 12)
    return asyncio.tasks._scheduled_tasks if after_3_11 else asyncio.tasks._all_tasks


def test_unregistered_tasks_are_not_shown(flavour):
    async def main():
        asyncio.current_task().set_name("main")
        task = asyncio.create_task(asyncio.sleep(0.01), name="hidden")
        before = names(asyncio.all_tasks())
        asyncio.tasks._unregister_task(task)
        asyncio.tasks._unregister_task(task)
        assert names(asyncio.all_tasks()) == sorted(set(before) - {"hidden"})
        asyncio.tasks._register_task(task)
        asyncio.tasks._register_task(task)
        assert names(asyncio.all_tasks()) == before
        await task

    flavour.run(main())


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio lists its tasks in C there")
def test_the_set_of_scheduled_tasks(flavour):
    async def main():
        tasks = register()
        current = asyncio.current_task()
        current.set_name("main")
        task = asyncio.create_task(asyncio.sleep(0.01), name="other")
        own = {current, task}
        others = set(tasks) - own
        assert task in tasks
        assert len(tasks) == len(set(tasks)) == len(list(tasks)) == len(others) + 2
        assert len(tasks.data) == len(tasks)
        assert all(isinstance(one, weakref.ref) for one in tasks.data)
        assert weakref.ref(task) in tasks.data
        assert bool(tasks)
        data = {weakref.ref(one) for one in own | others}
        assert tasks.data == tasks.data.copy() == tasks.data.union(()) == data
        assert tasks.data.intersection(data) == tasks.data.difference(()) == data
        assert tasks.data.symmetric_difference(data) == set()
        assert tasks.data >= data
        assert tasks.data.issubset(data)
        assert tasks.data | data == data
        for copied in (tasks.copy(), weakref.WeakSet(tasks), tasks | set(), tasks.union(())):
            assert type(copied) is weakref.WeakSet
            assert set(copied) == own | others
        assert set(tasks & own) == own
        assert set(tasks - own) == others
        assert set(tasks ^ own) == others
        assert tasks >= own
        assert tasks == weakref.WeakSet(own | others)
        assert tasks != weakref.WeakSet({current})
        assert not tasks.isdisjoint(own)
        tasks.discard(task)
        assert task not in tasks
        assert names(asyncio.all_tasks()) == names(set(asyncio.all_tasks()) - {task})
        with pytest.raises(KeyError):
            tasks.remove(task)
        tasks.add(task)
        tasks.add(task)
        assert task in tasks
        tasks -= {task}
        assert task not in tasks
        tasks |= {task}
        assert task in asyncio.all_tasks()
        assert 1 not in tasks
        await task

    flavour.run(main())


def test_tasks_of_other_kinds_come_and_go(flavour):
    class Foreign(asyncio.tasks._PyTask):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        made = [Foreign(nothing(), loop=loop, name="py"), asyncio.Task(nothing(), loop=loop)]
        shown = asyncio.all_tasks()
        if sys.version_info < (3, 14):
            assert made[0] in shown
        assert made[1] in shown
        await asyncio.gather(*made)
        assert not set(made) & asyncio.all_tasks()
        known = weakref.WeakSet(made)
        made.clear()
        del shown
        await asyncio.sleep(0)
        gc.collect()
        assert not known

    flavour.run(main())


def test_the_current_task_by_asyncios_functions(flavour):
    async def main():
        loop, current = asyncio.get_running_loop(), asyncio.current_task()
        other = asyncio.create_task(nothing())
        asyncio.tasks._leave_task(loop, current)
        assert asyncio.current_task() is None
        asyncio.tasks._enter_task(loop, current)
        assert asyncio.current_task() is current
        with pytest.raises(RuntimeError, match="Cannot enter into task"):
            asyncio.tasks._enter_task(loop, other)
        with pytest.raises(RuntimeError, match=r"Leaving task|leave task"):
            asyncio.tasks._leave_task(loop, other)
        if sys.version_info >= (3, 12):
            assert asyncio.tasks._swap_current_task(loop, None) is current
            assert asyncio.current_task() is None
            assert asyncio.tasks._swap_current_task(loop, other) is None
            assert asyncio.tasks._swap_current_task(loop, current) is other
        await asyncio.sleep(0)
        assert asyncio.current_task() is current
        await other

    flavour.run(main())


# Names


def number(task):
    return int(task.get_name().removeprefix("Task-"))


def test_one_counter_names_all_tasks(flavour):
    """Libraries make tasks by `asyncio.Task`, as aiohttp's server does."""

    async def main():
        loop = asyncio.get_running_loop()
        own = asyncio_class("Task")
        made = []
        for _ in range(3):
            made.append(loop.create_task(nothing()))
            made.append(own(nothing(), loop=loop))
            made.append(flavour.Task(nothing(), loop=loop))
            loop.create_task(nothing(), name="named").cancel()
        first = number(made[0])
        assert [number(task) for task in made] == list(range(first, first + 9))
        await asyncio.gather(*made)

    flavour.run(main())


def test_a_copy_is_refused_as_in_asyncio(flavour):
    loop = flavour.new_loop()
    with pytest.raises(TypeError, match="cannot pickle"):
        copy.copy(loop.create_future())
    loop.close()
