"""Invalid arguments to the loop's methods: the same exceptions and texts as asyncio."""

import asyncio
import gc
import re

import pytest


def outcome(call):
    """An exception's class and text, without addresses and class names, which may differ."""
    try:
        call()
    except BaseException as error:
        return type(error), re.sub(r"0x[0-9a-f]+", "0x", str(error))
    return "accepted"


@pytest.fixture
def pair(loop):
    """The loop under test and a stock loop."""
    reference = asyncio.SelectorEventLoop()
    reference.set_debug(loop.get_debug())
    yield loop, reference
    reference.close()


BAD = (None, 42, "text", b"bytes", 1.5, object, [], {}, print)


@pytest.mark.parametrize(
    "method",
    [
        "set_exception_handler",
        "set_task_factory",
        "set_default_executor",
        "create_task",
        "run_until_complete",
        "call_exception_handler",
        "default_exception_handler",
        "remove_signal_handler",
        "remove_reader",
        "remove_writer",
    ],
)
@pytest.mark.parametrize("thing", BAD, ids=[f"{type(t).__name__}" for t in BAD])
def test_one_bad_argument(pair, method, thing, log):
    outcomes = []
    for loop in pair:
        outcomes.append(outcome(lambda loop=loop: getattr(loop, method)(thing)))
        loop.set_exception_handler(None)
        loop.set_task_factory(None)
        log.take()
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("method", ["add_reader", "add_writer", "add_signal_handler"])
@pytest.mark.parametrize("thing", BAD, ids=[f"{type(t).__name__}" for t in BAD])
def test_a_bad_first_argument(pair, method, thing):
    if thing == 42:
        pytest.skip("a number that may be open")
    outcomes = [outcome(lambda loop=loop: getattr(loop, method)(thing, print)) for loop in pair]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "method",
    [
        "call_soon",
        "call_soon_threadsafe",
        "call_later",
        "call_at",
        "create_task",
        "run_until_complete",
        "set_exception_handler",
        "set_task_factory",
        "set_debug",
        "add_reader",
        "add_writer",
        "remove_reader",
        "remove_writer",
        "add_signal_handler",
        "remove_signal_handler",
        "run_in_executor",
        "call_exception_handler",
        "default_exception_handler",
    ],
)
def test_no_arguments(loop, method):
    with pytest.raises(TypeError) as caught:
        getattr(loop, method)()
    assert "argument" in str(caught.value)


@pytest.mark.parametrize(
    "method",
    [
        "run_forever",
        "stop",
        "close",
        "is_running",
        "is_closed",
        "time",
        "create_future",
        "get_debug",
        "get_exception_handler",
        "get_task_factory",
        "shutdown_asyncgens",
    ],
)
def test_too_many_arguments(loop, method):
    with pytest.raises(TypeError) as caught:
        getattr(loop, method)(1)
    assert "argument" in str(caught.value)


def test_keyword_names_match_asyncio(loop):
    seen = []
    future = loop.create_future()
    future.cancel(msg="m")
    loop.set_debug(enabled=loop.get_debug())
    loop.set_exception_handler(handler=None)
    loop.set_task_factory(factory=None)
    loop.run_until_complete(future=asyncio.sleep(0))
    handle = loop.call_later(delay=10, callback=seen.append)
    handle.cancel()
    handle = loop.call_at(when=loop.time() + 10, callback=seen.append)
    handle.cancel()
    handle = loop.call_soon(callback=seen.append)
    handle.cancel()
    handle = loop.call_soon_threadsafe(callback=seen.append)
    handle.cancel()

    async def nothing():
        return "done"

    assert loop.run_until_complete(loop.create_task(coro=nothing())) == "done"


@pytest.mark.parametrize("thing", [42, "context", object()])
def test_bad_context(pair, thing):
    """asyncio accepts any context and fails when the callback runs."""
    outcomes = []
    for loop in pair:
        reported = []
        loop.set_exception_handler(lambda loop, context, r=reported: r.append(context))

        def use(loop=loop):
            loop.call_soon(int, context=thing)
            loop.call_soon(loop.stop)
            loop.run_forever()

        found = outcome(use)
        loop.set_exception_handler(None)
        # Refused immediately or reported when run: never silently ignored, never a crash.
        outcomes.append(found != "accepted" or len(reported) == 1)
        reported.clear()
    assert outcomes == [True, True]


def test_foreign_futures_everywhere(loop, flavour):
    other = flavour.new_loop()

    async def main():
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            await other.create_future()
        with pytest.raises((RuntimeError, ValueError), match="different loop"):
            await asyncio.wait_for(other.create_future(), 1)
        with pytest.raises(ValueError, match="different"):
            asyncio.gather(loop.create_future(), other.create_future())
        with pytest.raises(ValueError, match="belongs to a different loop"):
            await asyncio.ensure_future(other.create_future(), loop=loop)

    loop.run_until_complete(main())
    other.close()


def test_arguments_of_future_and_task(loop, flavour):
    async def nothing():
        pass

    for call in (
        lambda: flavour.Future(1, 2),
        lambda: flavour.Future(color="red"),
        lambda: flavour.Task(),
        lambda: flavour.Task(None, None),
        lambda: flavour.Task(color="red"),
        lambda: loop.create_future().set_result(),
        lambda: loop.create_future().set_result(1, 2),
        lambda: loop.create_future().set_exception(),
        lambda: loop.create_future().cancel(1, 2),
        lambda: loop.create_future().done(1),
        lambda: loop.create_future().result(1),
        lambda: loop.create_future().add_done_callback(),
        lambda: loop.create_future().remove_done_callback(),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("thing", [42, "loop", object()])
def test_bad_loops(flavour, thing):
    """An object that is not a loop: refused, or unusable, but never a crash."""

    async def nothing():
        pass

    coroutine = nothing()
    for make in (
        lambda: flavour.Future(loop=thing),
        lambda: flavour.Task(coroutine, loop=thing),
    ):
        with pytest.raises(AttributeError):
            made = make()
            made.add_done_callback(print)
            made.cancel()
            made.get_loop().call_soon(print)
    coroutine.close()


def test_methods_of_a_loop_that_was_never_initialized(flavour, unraisable):
    """`__new__` without `__init__`: errors, no crash."""
    probe = flavour.new_loop()
    probe.close()
    raw = type(probe).__new__(type(probe))
    for name in (
        "is_running",
        "is_closed",
        "time",
        "stop",
        "get_debug",
        "create_future",
        "run_forever",
        "close",
    ):
        outcome(getattr(raw, name, lambda: None))
    outcome(lambda: raw.call_soon(int))
    outcome(lambda: raw.call_later(1, int))
    outcome(lambda: raw.call_soon_threadsafe(int))
    outcome(lambda: repr(raw))
    outcome(lambda: raw.set_debug(False))
    raw = None
    gc.collect()


# Runs forever, or asks the policy for a loop.
HARMFUL = ("run_forever", "__init__", "__class__", "__init_subclass__", "__class_getitem__")


@pytest.mark.only("ferroloop")  # the native classes
@pytest.mark.parametrize("name", ["Handle", "TimerHandle", "Future", "Task", "EventLoop"])
def test_objects_made_without_init(flavour, name, unraisable):
    """`__new__` alone, then every public and private attribute is accessed."""
    kind = getattr(flavour.module, name)
    try:
        raw = kind.__new__(kind)
    except TypeError:
        return
    for attribute in dir(raw):
        if attribute in HARMFUL:
            continue
        found = outcome(lambda attribute=attribute: getattr(raw, attribute)())
        assert found == "accepted" or not issubclass(found[0], SystemError), (attribute, found)
    outcome(lambda: repr(raw))
    raw = None
    gc.collect()
