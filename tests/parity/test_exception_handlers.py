"""set_exception_handler, call_exception_handler, default_exception_handler and their texts."""

import asyncio
import contextvars
import logging
import re
import sys

import pytest

from ..support.programs import run_program


def drain(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def fail(*args):
    raise ZeroDivisionError("in callback")


LINE = fail.__code__.co_firstlineno


@pytest.fixture
def contexts(loop):
    """The contexts passed to the loop's exception handler."""
    found = []
    loop.set_exception_handler(lambda the_loop, context: found.append((the_loop, context)))
    yield found
    found.clear()
    loop.set_exception_handler(None)


def test_get_and_set(loop):
    def handler(loop, context):
        pass

    assert loop.get_exception_handler() is None
    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


@pytest.mark.parametrize("thing", [42, "text", [], object])
def test_a_handler_must_be_callable(loop, thing):
    if thing is object:
        loop.set_exception_handler(thing)
        loop.set_exception_handler(None)
        return
    with pytest.raises(TypeError) as caught:
        loop.set_exception_handler(thing)
    assert str(caught.value) == f"A callable object or None is expected, got {thing!r}"


def test_exception_in_callback(loop, contexts):
    handle = loop.call_soon(fail, 1)
    seen = []
    loop.call_soon(seen.append, "others run")
    drain(loop)
    ((the_loop, context),) = contexts
    assert the_loop is loop
    assert seen == ["others run"]
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["handle"] is handle
    assert re.fullmatch(
        rf"Exception in callback fail\(.*\) at {re.escape(__file__)}:{LINE}", context["message"]
    )
    keys = ["message", "exception", "handle"]
    assert list(context) == keys + ["source_traceback"] * loop.get_debug()


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_exception_with_any_scheduling_method(loop, contexts, method):
    args = (0, fail) if method == "call_later" else (fail,)
    getattr(loop, method)(*args)
    drain(loop)
    drain(loop)
    ((_, context),) = contexts
    assert context["message"] == f"Exception in callback fail() at {__file__}:{LINE}"


def test_traceback_of_the_exception(loop, contexts):
    loop.call_soon(fail)
    drain(loop)
    traceback = contexts[0][1]["exception"].__traceback__
    names = []
    while traceback:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "fail"


def test_default_log(loop, log):
    loop.call_soon(fail, "x")
    drain(loop)
    (record,) = log.take()
    assert record.levelno == logging.ERROR
    assert record.name == "asyncio"
    lines = record.getMessage().splitlines()
    place = f"at {__file__}:{LINE}"
    assert lines[0].startswith("Exception in callback fail(")
    assert lines[0].endswith(place)
    assert lines[1].startswith("handle: <Handle fail(")
    assert lines[1].endswith(">")
    assert place in lines[1]
    if loop.get_debug():
        assert lines[2] == "source_traceback: Object created at (most recent call last):"
        assert any("test_default_log" in line for line in lines[3:])
    else:
        assert len(lines) == 2
    assert record.exc_info[0] is ZeroDivisionError


def test_default_handler_sorts_the_keys(loop, log):
    loop.default_exception_handler(
        {"message": "it broke", "zebra": 1, "apple": [2], "transport": None}
    )
    assert log.messages() == ["it broke\napple: [2]\ntransport: None\nzebra: 1"]


def test_default_handler_without_message(loop, log):
    loop.default_exception_handler({})
    (record,) = log.take()
    assert record.getMessage() == "Unhandled exception in event loop"
    assert record.exc_info is False or record.exc_info is None


def test_default_handler_with_exception(loop, log):
    error = ValueError("x")
    loop.default_exception_handler({"message": "m", "exception": error})
    (record,) = log.take()
    assert record.exc_info[:2] == (ValueError, error)


def test_call_exception_handler_uses_the_handler(loop, contexts):
    context = {"message": "hello"}
    loop.call_exception_handler(context)
    assert contexts == [(loop, context)]
    assert contexts[0][1] is context


def test_call_exception_handler_without_one(loop, log):
    loop.call_exception_handler({"message": "hello"})
    assert log.messages() == ["hello"]


def test_handler_that_fails(loop, log):
    def handler(loop, context):
        raise LookupError("handler broke")

    loop.set_exception_handler(handler)
    loop.call_soon(fail)
    drain(loop)
    (record,) = log.take()
    text = record.getMessage()
    assert text.startswith("Unhandled error in exception handler\ncontext: {'message': ")
    assert record.exc_info[0] is LookupError


def test_default_handler_that_fails(flavour, log):
    base = type_of(flavour)

    class Broken(base):
        def default_exception_handler(self, context):
            raise LookupError("broken")

    loop = Broken()
    loop.call_exception_handler({"message": "m"})
    loop.close()
    (record,) = log.take()
    assert record.getMessage() == "Exception in default exception handler"
    assert record.exc_info[0] is LookupError


def test_handler_and_default_handler_that_fail(flavour, log):
    class Broken(type_of(flavour)):
        def default_exception_handler(self, context):
            raise LookupError("broken")

    loop = Broken()

    def handler(loop, context):
        raise ValueError("handler broke")

    loop.set_exception_handler(handler)
    loop.call_exception_handler({"message": "m"})
    loop.close()
    assert log.messages() == [
        "Exception in default exception handler while handling an unexpected error in custom "
        "exception handler"
    ]


def type_of(flavour):
    loop = flavour.new_loop()
    loop.close()
    return type(loop)


def test_overridden_default_handler_is_called(flavour):
    seen = []

    class Loop(type_of(flavour)):
        def default_exception_handler(self, context):
            seen.append(context["message"])

    loop = Loop()
    loop.call_soon(fail)
    drain(loop)
    loop.close()
    assert seen == [f"Exception in callback fail() at {__file__}:{LINE}"]


def test_overridden_call_exception_handler_is_called(flavour):
    seen = []

    class Loop(type_of(flavour)):
        def call_exception_handler(self, context):
            seen.append(context["message"])

    loop = Loop()
    loop.call_soon(fail)
    drain(loop)
    loop.close()
    assert seen == [f"Exception in callback fail() at {__file__}:{LINE}"]


def test_handler_may_stop_the_loop(loop):
    loop.set_exception_handler(lambda loop, context: loop.stop())
    loop.call_soon(fail)
    loop.call_later(10, fail)
    loop.run_forever()
    loop.set_exception_handler(None)


def test_handler_may_schedule_and_replace_itself(loop):
    seen = []

    def second(loop, context):
        seen.append("second")

    def first(loop, context):
        seen.append("first")
        loop.set_exception_handler(second)
        loop.call_soon(fail)

    loop.set_exception_handler(first)
    loop.call_soon(fail)
    drain(loop)
    drain(loop)
    loop.set_exception_handler(None)
    assert seen == ["first", "second"]


def test_handler_runs_in_the_callbacks_context(loop):
    var = contextvars.ContextVar("var", default="outside")
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(var.get()))

    def set_and_fail():
        var.set("inside")
        raise ValueError

    loop.call_soon(set_and_fail)
    drain(loop)
    loop.set_exception_handler(None)
    assert seen == (["inside"] if sys.version_info >= (3, 12) else ["outside"])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exits_leave_run_forever(loop, contexts, kind):
    seen = []

    def leave():
        raise kind("now")

    loop.call_soon(seen.append, 1)
    loop.call_soon(leave)
    loop.call_soon(seen.append, 2)
    with pytest.raises(kind, match="now"):
        loop.run_forever()
    assert seen == [1]
    assert not contexts
    assert not loop.is_running()
    drain(loop)
    assert seen == [1, 2], "callbacks queued after it are kept"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exits_in_a_handler_leave_run_forever(loop, kind):
    def handler(loop, context):
        raise kind("from handler")

    loop.set_exception_handler(handler)
    loop.call_soon(fail)
    with pytest.raises(kind, match="from handler"):
        loop.run_forever()
    loop.set_exception_handler(None)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exits_in_a_task(loop, contexts, kind):
    async def leave():
        raise kind("now")

    task = loop.create_task(leave())
    with pytest.raises(kind, match="now"):
        loop.run_forever()
    assert task.done()
    assert isinstance(task.exception(), kind)
    assert not contexts


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exits_through_run_until_complete(loop, kind):
    async def leave():
        await asyncio.sleep(0)
        raise kind("now")

    with pytest.raises(kind, match="now"):
        loop.run_until_complete(leave())
    drain(loop)


def test_other_base_exceptions_go_to_the_handler(loop, contexts):
    class Odd(BaseException):
        pass

    def odd():
        raise Odd("odd")

    loop.call_soon(odd)
    drain(loop)
    ((_, context),) = contexts
    assert isinstance(context["exception"], Odd)


def test_cancelled_error_in_a_callback(loop, contexts):
    def cancelled():
        raise asyncio.CancelledError("who?")

    loop.call_soon(cancelled)
    drain(loop)
    ((_, context),) = contexts
    assert isinstance(context["exception"], asyncio.CancelledError)


def test_exception_in_a_done_callback(loop, contexts):
    future = loop.create_future()
    seen = []
    future.add_done_callback(fail)
    future.add_done_callback(seen.append)
    future.set_result(None)
    drain(loop)
    assert seen == [future]
    ((_, context),) = contexts
    assert context["message"].startswith("Exception in callback fail(")


def test_unretrieved_task_exception(loop, contexts):
    async def lost():
        raise OSError("lost")

    task = loop.create_task(lost(), name="loser")
    drain(loop)
    text = repr(task)
    del task
    ((_, context),) = contexts
    assert context["message"] == "Task exception was never retrieved"
    assert isinstance(context["exception"], OSError)
    assert repr(context["future"]) == text
    keys = ["message", "exception", "future"]
    assert list(context) == keys + ["source_traceback"] * loop.get_debug()


def test_unretrieved_future_exception(loop, log):
    future = loop.create_future()
    future.set_exception(OSError("lost"))
    del future
    (record,) = log.take()
    lines = record.getMessage().splitlines()
    assert lines[0] == "Future exception was never retrieved"
    assert lines[1].startswith("future: <Future finished exception=OSError('lost')")
    assert record.exc_info[0] is OSError


def test_retrieved_exceptions_are_silent(loop, contexts):
    for retrieve in (
        lambda f: f.exception(),
        lambda f: pytest.raises(OSError, f.result),
        lambda f: setattr(f, "_log_traceback", False),
    ):
        future = loop.create_future()
        future.set_exception(OSError("seen"))
        retrieve(future)
        del future
    assert contexts == []


@pytest.mark.parametrize("kind", ["callback", "done callback", "timer"])
def test_handlers_run_while_the_exception_is_handled(loop, kind):
    """As in an `except` block: sys.exc_info() finds it, and exceptions raised there chain to it."""
    found = []

    def handler(loop, context):
        found.append((sys.exc_info()[1], context["exception"]))

    loop.set_exception_handler(handler)
    if kind == "callback":
        loop.call_soon(fail)
    elif kind == "timer":
        loop.call_later(0, fail)
    else:
        future = loop.create_future()
        future.add_done_callback(fail)
        future.set_result(None)
    drain(loop)
    drain(loop)
    loop.set_exception_handler(None)
    ((handled, reported),) = found
    assert handled is reported
    assert isinstance(handled, ZeroDivisionError)
    assert sys.exc_info() == (None, None, None)
    found.clear()
    del handled, reported


# Objects that the interpreter drops with the main module, when imports no longer work.
AT_EXIT = """
loop = new_event_loop()
async def forever():
    await loop.create_future()
async def nothing():
    pass
task = loop.create_task(forever(), name="left")
failed = loop.create_future()
loop.run_until_complete(nothing())
failed.set_exception(ValueError("never seen"))
loop.close()
print("end")
"""


def test_reports_while_the_interpreter_exits(flavour):
    status, out, errors = run_program(flavour, AT_EXIT)
    assert (status, out) == (0, "end\n")
    assert errors.count("Task was destroyed but it is pending!\n") == 1
    assert errors.count("task: <Task pending name='left' coro=<forever() ") == 1
    assert errors.count("Future exception was never retrieved\nfuture: <Future finished ") == 1
    assert errors.count("ValueError: never seen\n") == 1
    assert "ignored" not in errors
    assert "Logging error" not in errors


def test_handler_is_called_while_the_interpreter_exits(flavour):
    source = f"""{AT_EXIT}
def handler(loop, context, print=print):
    print(context["message"])
loop.set_exception_handler(handler)
"""
    status, out, errors = run_program(flavour, source)
    assert (status, errors) == (0, "")
    assert sorted(out.splitlines()) == [
        "Future exception was never retrieved",
        "Task was destroyed but it is pending!",
        "end",
    ]
