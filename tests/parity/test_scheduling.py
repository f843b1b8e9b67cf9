"""call_soon, call_later, call_at, call_soon_threadsafe, time: order, contexts, arguments."""

import asyncio
import contextvars
import threading
import time
import weakref

import pytest

VAR = contextvars.ContextVar("VAR", default="default")


def drain(loop):
    """Run one turn."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_call_soon_runs_in_order(loop):
    seen = []
    for i in range(10):
        loop.call_soon(seen.append, i)
    assert seen == []
    drain(loop)
    assert seen == list(range(10))


def test_call_soon_passes_all_arguments(loop):
    seen = []
    loop.call_soon(lambda *args: seen.append(args))
    loop.call_soon(lambda *args: seen.append(args), 1)
    loop.call_soon(lambda *args: seen.append(args), 1, "two", [3], None)
    drain(loop)
    assert seen == [(), (1,), (1, "two", [3], None)]


def test_callbacks_scheduled_by_a_callback_wait_for_the_next_turn(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "later")

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, "after stop, same turn")
    loop.run_forever()
    assert seen == ["first", "second", "after stop, same turn"]
    drain(loop)
    assert seen[3:] == ["later"]


def test_stop_before_run_forever_runs_one_turn(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.call_soon, seen.append, 2)
    loop.stop()
    loop.run_forever()
    assert seen == [1]
    loop.stop()
    loop.run_forever()
    assert seen == [1, 2]


def test_call_soon_and_threadsafe_share_one_queue(loop):
    seen = []
    for i in range(0, 20, 2):
        loop.call_soon(seen.append, i)
        loop.call_soon_threadsafe(seen.append, i + 1)
    drain(loop)
    assert seen == list(range(20))


def test_threadsafe_and_soon_from_inside_callbacks_keep_order(loop):
    seen = []

    def schedule():
        for i in range(0, 6, 2):
            loop.call_soon_threadsafe(seen.append, i)
            loop.call_soon(seen.append, i + 1)
        loop.call_soon(loop.stop)

    loop.call_soon(schedule)
    loop.run_forever()
    assert seen == list(range(6))


def test_threadsafe_wakes_an_idle_loop(loop):
    started = threading.Event()
    took = []

    def from_thread():
        started.wait(5)
        time.sleep(0.05)
        took.append(time.monotonic())
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=from_thread)
    thread.start()
    loop.call_soon(started.set)
    loop.call_later(10, loop.stop)
    loop.run_forever()
    assert time.monotonic() - took[0] < 2
    thread.join()


def test_threadsafe_from_many_threads_loses_nothing(loop):
    seen = []
    each = 500

    def producer(number):
        for i in range(each):
            loop.call_soon_threadsafe(receive, (number, i))

    def receive(item):
        seen.append(item)
        if len(seen) == 4 * each:
            loop.stop()

    threads = [threading.Thread(target=producer, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    loop.run_forever()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert [i for n, i in seen if n == number] == list(range(each))


def test_call_later_orders_by_deadline(loop):
    seen = []
    loop.call_later(0.3, seen.append, 3)
    loop.call_later(0.1, seen.append, 1)
    loop.call_later(0.2, seen.append, 2)
    loop.call_later(0.4, loop.stop)
    loop.run_forever()
    assert seen == [1, 2, 3]


def test_call_at_never_fires_early(loop):
    late = []
    start = loop.time()
    deadlines = [start + i * 0.0013 for i in range(1, 12)]
    for when in deadlines:
        loop.call_at(when, lambda when=when: late.append(loop.time() - when))
    loop.call_at(deadlines[-1] + 0.02, loop.stop)
    loop.run_forever()
    assert len(late) == len(deadlines)
    # asyncio fires whatever is due within the clock's resolution.
    assert min(late) >= -time.get_clock_info("monotonic").resolution


def test_past_and_zero_deadlines_run_in_the_next_turn(loop):
    seen = []
    loop.call_at(loop.time() - 10, seen.append, "past")
    loop.call_later(0, seen.append, "zero")
    loop.call_later(-1, seen.append, "negative")
    loop.call_soon(seen.append, "soon")
    drain(loop)
    drain(loop)
    assert seen[0] == "soon"
    assert sorted(seen[1:]) == ["negative", "past", "zero"]


def test_call_later_accepts_any_number(loop):
    seen = []
    loop.call_later(True, int)
    loop.call_later(0.0, seen.append, "float")
    loop.call_later(0, seen.append, "int")

    class Number(float):
        pass

    loop.call_later(Number(0.001), loop.stop)
    loop.run_forever()
    assert seen == ["float", "int"]


@pytest.mark.parametrize(
    ("method", "text"),
    [("call_later", "delay must not be None"), ("call_at", "when cannot be None")],
)
def test_none_is_refused_as_a_time(loop, method, text):
    with pytest.raises(TypeError) as caught:
        getattr(loop, method)(None, print)
    assert str(caught.value) == text


@pytest.mark.parametrize("when", ["soon", [], object()])
def test_a_time_must_be_a_number(loop, when):
    with pytest.raises(TypeError):
        loop.call_later(when, print)


def test_missing_arguments(loop):
    for call in (loop.call_soon, loop.call_soon_threadsafe, loop.call_later, loop.call_at):
        with pytest.raises(TypeError):
            call()
    for call in (loop.call_later, loop.call_at):
        with pytest.raises(TypeError):
            call(1)


def test_unknown_keyword(loop):
    for call in (loop.call_soon, loop.call_soon_threadsafe):
        with pytest.raises(TypeError):
            call(print, color="red")


def test_time_is_the_monotonic_clock(loop):
    before = time.monotonic()
    now = loop.time()
    assert isinstance(now, float)
    assert before <= now <= time.monotonic()


def test_a_given_context_is_not_copied(loop):
    """A given context is used itself, not a copy: writes are seen."""
    seen = []

    def write(value):
        seen.append(VAR.get())
        VAR.set(value)

    context = contextvars.copy_context()
    loop.call_soon(write, "one", context=context)
    loop.call_soon(write, "two", context=context)
    loop.call_later(0, write, "three", context=context)
    loop.call_soon_threadsafe(write, "four", context=context)
    drain(loop)
    drain(loop)
    assert seen == ["default", "one", "two", "four"]
    assert context[VAR] == "three"
    assert VAR.get() == "default"


def test_without_context_the_current_one_is_copied(loop):
    seen = []
    token = VAR.set("at scheduling")
    try:
        loop.call_soon(lambda: seen.append(VAR.get()))
        loop.call_later(0, lambda: seen.append(VAR.get()))
        loop.call_soon_threadsafe(lambda: seen.append(VAR.get()))
        loop.call_at(loop.time(), lambda: VAR.set("lost"))
    finally:
        VAR.reset(token)
    drain(loop)
    drain(loop)
    assert seen == ["at scheduling"] * 3
    assert VAR.get() == "default"


def test_cancelled_handles_do_not_run(loop):
    seen = []
    soon = loop.call_soon(seen.append, "soon")
    later = loop.call_later(0.001, seen.append, "later")
    safe = loop.call_soon_threadsafe(seen.append, "safe")
    for handle in (soon, later, safe):
        assert not handle.cancelled()
        handle.cancel()
        handle.cancel()
        assert handle.cancelled()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert seen == []


def test_a_callback_may_cancel_the_next(loop):
    seen = []
    handles = []

    def first():
        seen.append("first")
        handles[0].cancel()
        handles[1].cancel()

    loop.call_soon(first)
    handles.append(loop.call_soon(seen.append, "cancelled"))
    handles.append(loop.call_later(0, seen.append, "cancelled too"))
    drain(loop)
    drain(loop)
    assert seen == ["first"]


def test_a_timer_that_comes_due_beside_one_without_delay(loop):
    seen = []

    def schedule():
        loop.call_later(0, call, "without delay")
        loop.call_soon(seen.append, "soon")
        time.sleep(0.05)

    def call(name):
        seen.append(name)
        loop.call_soon(seen.append, f"after {name}")

    loop.call_later(0.02, call, "with delay")
    loop.call_soon(schedule)
    drain(loop)
    drain(loop)
    assert seen == ["soon", "without delay", "with delay"]
    drain(loop)
    assert seen[3:] == ["after without delay", "after with delay"]


def test_timers_without_delay_go_by_their_deadlines(loop):
    seen = []
    for delay in (0, 0.0, -0.0, False, -5, -1e9, -(10**30)):
        loop.call_later(delay, seen.append, delay)
    never = loop.call_later(10**30, seen.append, "never")
    drain(loop)
    assert seen[:3] == [-(10**30), -1e9, -5]
    assert [*map(str, seen[3:])] == ["0", "0.0", "-0.0", "False"]
    never.cancel()


def test_a_clock_replaced_after_a_timer_without_delay(loop, monkeypatch):
    seen = []
    loop.call_later(0, seen.append, "first")
    drain(loop)
    now = 1.0
    monkeypatch.setattr(loop, "time", lambda: now)
    loop.call_at(2.0, seen.append, "second")
    drain(loop)
    drain(loop)
    assert seen == ["first"]
    now = 2.0
    drain(loop)
    assert seen == ["first", "second"]


def test_cancelled_timers_release_their_arguments(loop):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    handle = loop.call_later(3600, print, thing)
    del thing
    assert gone() is not None
    handle.cancel()  # in debug mode the handle keeps text for its repr, not the objects
    assert gone() is None
    assert "cancelled" in repr(handle)


def test_many_cancelled_timers_do_not_accumulate(loop):
    for _ in range(20):
        handles = [loop.call_later(3600, print) for _ in range(500)]
        for handle in handles:
            handle.cancel()
        drain(loop)
    fired = []
    loop.call_later(0.001, fired.append, 1)
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    assert fired == [1]


def test_run_callbacks_release_their_arguments(loop):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    handle = loop.call_soon(id, thing)
    del thing
    drain(loop)
    del handle
    assert gone() is None


def test_a_callback_may_be_any_callable(loop):
    class Callable:
        def __call__(self, *args):
            seen.append(args)

    seen = []
    loop.call_soon(Callable(), 1)
    loop.call_soon(seen.append, 2)
    loop.call_soon(dict)
    drain(loop)
    assert seen == [(1,), 2]


def test_recursion_of_a_callable_object_ends(loop):
    class Direct:
        def __call__(self, *arguments):
            return self(*arguments)

    class Indirect:
        pass

    Indirect.__call__ = Indirect()
    raised = []
    loop.set_exception_handler(lambda loop, context: raised.append(context["exception"]))
    for callback in (Direct(), Indirect()):
        loop.call_soon(callback)
        loop.call_soon(callback, 1)
        future = loop.create_future()
        future.add_done_callback(callback)
        future.set_result(None)
    drain(loop)
    assert [type(error) for error in raised] == [RecursionError] * 6


def test_builtin_callbacks_that_fail(loop):
    raised = []
    loop.set_exception_handler(lambda loop, context: raised.append(context["exception"]))
    future = loop.create_future()
    future.add_done_callback(len)
    future.add_done_callback({}.__getitem__)
    future.set_result(None)
    loop.call_soon(len, 1)
    loop.call_soon([].append)
    drain(loop)
    assert [type(error) for error in raised] == [TypeError, KeyError, TypeError, TypeError]


def test_overridden_time_is_called(flavour):
    """A loop with a replaced time() runs its timers by that clock."""
    probe = flavour.new_loop()
    base = type(probe)
    probe.close()

    class Shifted(base):
        shift = 0.0

        def time(self):
            return super().time() + self.shift

    loop = Shifted()
    try:
        seen = []
        loop.call_later(3600, seen.append, "an hour later")

        def leap():
            loop.shift = 3601.0
            loop.call_later(0, loop.stop)

        loop.call_soon(leap)
        loop.run_forever()
        assert seen == ["an hour later"]
    finally:
        loop.close()


def test_time_replaced_on_the_instance(loop, monkeypatch):
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + 100, raising=False)
    assert loop.call_later(5, print).when() == now + 105


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_closed_loop_refuses(loop, method):
    loop.close()
    with pytest.raises(RuntimeError) as caught:
        getattr(loop, method)(print)
    assert str(caught.value) == "Event loop is closed"


@pytest.mark.parametrize("method", ["call_later", "call_at"])
def test_closed_loop_refuses_timers(loop, method):
    loop.close()
    with pytest.raises(RuntimeError) as caught:
        getattr(loop, method)(1, print)
    assert str(caught.value) == "Event loop is closed"


def test_closing_drops_queued_callbacks(loop):
    class Thing:
        pass

    things = [Thing(), Thing(), Thing()]
    gone = [weakref.ref(thing) for thing in things]
    loop.call_soon(print, things[0])
    loop.call_later(10, print, things[1])
    loop.call_soon_threadsafe(print, things[2])
    del things
    loop.close()
    assert [ref() for ref in gone] == [None] * 3


def test_timers_and_callbacks_alternate_fairly(loop):
    """A chain of call_soon does not starve a timer."""
    seen = []

    def chain():
        if not seen:
            loop.call_soon(chain)
        else:
            loop.stop()

    loop.call_soon(chain)
    loop.call_later(0.01, seen.append, "timer")
    loop.run_forever()
    assert seen == ["timer"]


def test_inside_a_coroutine(run):
    async def main():
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        order = []
        loop.call_later(0.002, done.set_result, "timer")
        loop.call_soon(order.append, "soon")
        await asyncio.sleep(0)
        order.append("resumed")
        assert await done == "timer"
        return order

    assert run(main()) == ["soon", "resumed"]
