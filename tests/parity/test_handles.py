"""Handle and TimerHandle: attributes, repr, ordering, running, cancelling."""

import asyncio
import contextvars
import functools
import gc
import re
import socket
import sys
import weakref

import pytest

HERE = re.escape(__file__)


def callback(*args):
    """A callback defined in this file."""


LINE = callback.__code__.co_firstlineno


class Callbacks:
    def method(self):
        pass

    def __call__(self):
        pass

    def __repr__(self):
        return "Callbacks()"


def where(loop, handle):
    """repr() as in plain mode, without debug mode's `created at ...`."""
    text = repr(handle)
    if loop.get_debug():
        text, times = re.subn(rf" created at {HERE}:\d+>$", ">", text)
        assert times == 1, text
    return text


def test_classes(loop, flavour):
    handle, timer = loop.call_soon(callback), loop.call_later(10, callback)
    assert isinstance(handle, asyncio.Handle)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.Handle)
    assert isinstance(timer, asyncio.TimerHandle)
    assert type(handle).__name__ == "Handle"
    assert type(timer).__name__ == "TimerHandle"
    assert issubclass(type(timer), flavour.Handle)
    assert isinstance(loop.call_soon_threadsafe(callback), asyncio.Handle)


def test_attributes(loop):
    context = contextvars.copy_context()
    handle = loop.call_soon(callback, 1, "two", context=context)
    assert handle._callback is callback
    assert handle._args == (1, "two")
    assert isinstance(handle._args, tuple)
    assert handle._context is context
    assert handle._loop is loop
    assert handle._cancelled is False
    assert bool(handle._source_traceback) is loop.get_debug()
    if sys.version_info >= (3, 12):
        assert handle.get_context() is context


def test_attributes_without_arguments(loop):
    handle = loop.call_soon(callback)
    assert handle._args == ()
    assert isinstance(handle._context, contextvars.Context)


def test_attributes_after_cancel(loop):
    handle = loop.call_soon(callback, 1)
    handle.cancel()
    assert handle._callback is None
    assert handle._args is None
    assert handle._cancelled is True
    assert handle.cancelled() is True


def test_cancel_returns_none(loop):
    assert loop.call_soon(callback).cancel() is None
    assert loop.call_later(1, callback).cancel() is None


def test_when(loop):
    timer = loop.call_at(loop.time() + 42, callback)
    assert timer.when() == timer._when
    assert timer.when() == pytest.approx(loop.time() + 42, abs=5)
    when = timer.when()
    timer.cancel()
    assert timer.when() == when


def test_call_at_keeps_the_exact_time(loop):
    assert loop.call_at(12345.678, callback).when() == 12345.678


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_repr(loop, method):
    handle = getattr(loop, method)(callback)
    # From 3.14 on asyncio has a private class for handles whose cancellation takes a lock.
    locked = sys.version_info >= (3, 14) and method != "call_soon"
    name = "_ThreadSafeHandle" if locked else "Handle"
    assert where(loop, handle) == f"<{name} callback() at {__file__}:{LINE}>"


def test_repr_with_arguments(loop):
    handle = loop.call_soon(callback, 1, "two", [3])
    plain = where(loop, handle)
    # The versions differ in whether arguments are shown outside debug mode.
    reference = asyncio.Handle(callback, (1, "two", [3]), loop)
    assert plain == re.sub(r" created at \S+>$", ">", repr(reference))
    assert plain.startswith("<Handle callback(")


def test_repr_of_a_cancelled_handle(loop):
    handle = loop.call_soon(callback, 1)
    handle.cancel()
    if loop.get_debug():
        reference = asyncio.Handle(callback, (1,), loop)
        reference.cancel()
        strip = functools.partial(re.sub, r" created at \S+>$", ">")
        assert strip(repr(handle)) == strip(repr(reference))
        assert repr(handle).startswith("<Handle cancelled callback(")
    else:
        assert repr(handle) == "<Handle cancelled>"


def test_repr_of_timers(loop):
    timer = loop.call_at(1e9, callback)
    assert where(loop, timer) == f"<TimerHandle when=1000000000.0 callback() at {__file__}:{LINE}>"
    timer.cancel()
    if loop.get_debug():
        assert where(loop, timer) == (
            f"<TimerHandle cancelled when=1000000000.0 callback() at {__file__}:{LINE}>"
        )
    else:
        assert repr(timer) == "<TimerHandle cancelled when=1000000000.0>"


@pytest.mark.parametrize(
    "make",
    [
        lambda: functools.partial(callback, 1),
        lambda: functools.partial(functools.partial(callback, 1), x=2),
        lambda: Callbacks().method,
        Callbacks,
        lambda: print,
        lambda: [].append,
        lambda: len,
        lambda: dict,
        lambda: functools.lru_cache(callback),
        lambda: lambda: None,
    ],
    ids=[
        "partial",
        "nested partial",
        "method",
        "instance",
        "print",
        "append",
        "len",
        "class",
        "wrapped",
        "lambda",
    ],
)
def test_repr_of_any_callable_matches_asyncio(loop, make):
    function = make()
    ours, reference = loop.call_soon(function), asyncio.Handle(function, (), loop)
    strip = functools.partial(re.sub, r" created at \S+>$", ">")
    assert strip(repr(ours)) == strip(repr(reference))
    ours.cancel()
    reference.cancel()
    assert strip(repr(ours)) == strip(repr(reference))


def test_source_traceback_ends_at_the_caller(loop):
    handles = [
        loop.call_soon(callback),
        loop.call_soon_threadsafe(callback),
        loop.call_later(1, callback),
        loop.call_at(1e9, callback),
    ]
    for handle in handles:
        if loop.get_debug():
            frame = handle._source_traceback[-1]
            assert frame.filename == __file__
            assert frame.name == "test_source_traceback_ends_at_the_caller"
        else:
            assert handle._source_traceback is None


def test_run_called_directly(loop):
    seen = []
    handle = loop.call_soon(seen.append, 1)
    handle._run()
    assert seen == [1]
    handle.cancel()


def test_run_called_directly_reports_exceptions(loop):
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    handle = loop.call_soon(int, "no number")
    handle._run()
    (context,) = reported
    assert context["handle"] is handle
    assert isinstance(context["exception"], ValueError)
    assert context["message"].startswith("Exception in callback int(")
    assert ("source_traceback" in context) is loop.get_debug()
    handle.cancel()
    loop.set_exception_handler(None)


def test_timers_compare_by_time(loop):
    early, late = loop.call_at(1e8, callback), loop.call_at(1e9, callback)
    assert early < late
    assert late > early
    assert early <= late
    assert late >= early
    assert not early > late
    assert not late < early
    assert early != late
    assert sorted([late, early]) == [early, late]


def test_equal_timers(loop):
    function = functools.partial(callback)
    one, two = loop.call_at(1e9, function), loop.call_at(1e9, function)
    assert one == two
    assert one <= two
    assert one >= two
    assert not one < two
    assert not one > two
    assert hash(one) == hash(1e9)
    assert one != loop.call_at(1e9, function, 1)
    assert one != loop.call_at(1e9, callback)
    two.cancel()
    assert one != two


def test_timers_and_other_things(loop):
    timer, handle = loop.call_at(1e9, callback), loop.call_soon(callback)
    assert timer != handle
    assert timer != 1e9
    assert timer.__eq__(1e9) is NotImplemented
    for compare in ("__lt__", "__gt__", "__le__", "__ge__"):
        assert getattr(timer, compare)(1e9) is NotImplemented
    with pytest.raises(TypeError):
        assert timer < handle


def test_handles_compare_by_identity(loop):
    one, two = loop.call_soon(callback), loop.call_soon(callback)
    assert one != two
    assert one == one
    assert len({one, two}) == 2


def test_weak_references(loop):
    handle, timer = loop.call_soon(callback), loop.call_later(0, callback)
    references = [weakref.ref(handle), weakref.ref(timer)]
    assert references[0]() is handle
    loop.call_soon(loop.call_soon, loop.call_soon, loop.stop)
    loop.run_forever()
    del handle, timer
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_handle_in_a_cycle_is_collected(loop):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    thing.handle = loop.call_soon(callback, thing)
    thing.timer = loop.call_later(1000, callback, thing)
    thing.handle.cancel()
    thing.timer.cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()
    del thing
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("method", ["call_soon", "call_later"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_cycle_through_the_context_is_collected(loop, method, cancelled):
    class Payload:
        pass

    held = contextvars.ContextVar("held")

    def schedule():
        # The context copied for the handle refers to an object that refers to the handle.
        payload = Payload()
        held.set(payload)
        arguments = (3600,) if method == "call_later" else ()
        payload.handle = getattr(loop, method)(*arguments, callback)
        if cancelled:
            payload.handle.cancel()
        loop.stop()
        return weakref.ref(payload)

    references = []
    loop.call_soon(lambda: references.append(contextvars.Context().run(schedule)))
    loop.run_forever()
    if method == "call_soon":
        # One more turn, in which it runs.
        loop.call_soon(loop.stop)
        loop.run_forever()
    else:
        loop.close()
    gc.collect()
    assert [reference() for reference in references] == [None]


def test_contexts_of_many_queued_handles(run):
    # More contexts than the interpreter and the loop cache for reuse, with tokens and copies
    # that outlive the handles.
    number = contextvars.ContextVar("number", default=None)
    tokens, seen = [], []

    def change(value):
        seen.append(number.get())
        if value % 1000 == 0:
            tokens.append(number.set(value))
            seen.append(contextvars.copy_context()[number])

    async def main():
        loop = asyncio.get_running_loop()
        count = 2_000 if loop.get_debug() else 20_000
        handles = []
        for value in range(count):
            number.set(-value)
            handle = loop.call_soon(change, value)
            if value % 700 == 0:
                handles.append((value, handle))
        gc.collect()
        for value, handle in handles[::2]:
            assert handle._context[number] == -value
            handle.cancel()
        await asyncio.sleep(0)
        gc.collect()
        cancelled = {value for value, _ in handles[::2]}
        expected = []
        for value in range(count):
            if value not in cancelled:
                expected += [-value, value] if value % 1000 == 0 else [-value]
        assert seen == expected
        assert [handle._context[number] for _, handle in handles] == [
            value if value % 1000 == 0 and value not in cancelled else -value
            for value, _ in handles
        ]
        assert [token.old_value for token in tokens] == [
            -value for value in range(0, count, 1000) if value not in cancelled
        ]

    run(main())


def test_asyncio_handles_work_on_the_loop(loop):
    """A handle that a program created itself runs and can be cancelled as usual."""
    seen = []
    handle = asyncio.Handle(seen.append, (1,), loop)
    handle._run()
    timer = asyncio.TimerHandle(loop.time(), seen.append, (2,), loop)
    timer._run()
    timer.cancel()
    assert seen == [1, 2]


def test_add_reader_returns_no_handle(loop):
    left, right = socket.socketpair()
    with left, right:
        assert loop.add_reader(left, callback) is None
        assert loop.add_writer(left, callback) is None
        loop.remove_reader(left)
        loop.remove_writer(left)
