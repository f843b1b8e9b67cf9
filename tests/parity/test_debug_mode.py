"""Debug mode: thread and type checks, slow callbacks, source tracebacks, coroutine origins."""

import asyncio
import functools
import gc
import re
import socket
import sys
import threading
import time

import pytest

from ..support.programs import run_program


async def nothing():
    pass


def drain(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def in_thread(function):
    """What a function returns or raises in another thread."""
    found = []

    def work():
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found.pop()


def test_get_and_set(loop):
    for value in (True, False):
        loop.set_debug(value)
        assert loop.get_debug() is value


def test_set_debug_accepts_truth_values(loop):
    loop.set_debug(1)
    assert loop.get_debug()
    loop.set_debug(0)
    assert not loop.get_debug()


@pytest.mark.mode("plain")
@pytest.mark.parametrize("value", ["1", "yes"])
def test_environment_variable(flavour, value):
    source = f"""
    loop = new_event_loop()
    print(loop.get_debug(), os.environ.get("PYTHONASYNCIODEBUG"))
    loop.close()
    os.environ["PYTHONASYNCIODEBUG"] = "{value}"
    loop = new_event_loop()
    print(loop.get_debug())
    loop.close()
    """
    status, out, errors = run_program(flavour, source)
    assert (status, out, errors) == (0, "False None\nTrue\n", "")
    status, out, errors = run_program(flavour, source, "-E")
    assert (status, out, errors) == (0, "False None\nFalse\n", "")


@pytest.mark.mode("plain")
def test_dev_mode(flavour):
    source = "loop = new_event_loop(); print(loop.get_debug()); loop.close()"
    assert run_program(flavour, source, "-X", "dev") == (0, "True\n", "")


def test_slow_callback_duration(loop):
    fresh = type(loop)()
    assert fresh.slow_callback_duration == 0.1
    fresh.close()
    loop.slow_callback_duration = 2
    assert loop.slow_callback_duration == 2


THREAD_TEXT = "Non-thread-safe operation invoked on an event loop other than the current one"


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at"])
def test_wrong_thread(loop, method):
    args = (int,) if method == "call_soon" else (0, int)

    async def main():
        return in_thread(lambda: getattr(loop, method)(*args))

    found = loop.run_until_complete(main())
    if loop.get_debug():
        assert isinstance(found, RuntimeError)
        assert str(found) == THREAD_TEXT
    else:
        assert isinstance(found, asyncio.Handle)


def test_thread_check_applies_only_while_running(loop):
    assert isinstance(in_thread(lambda: loop.call_soon(int)), asyncio.Handle)
    drain(loop)


def test_threadsafe_is_not_checked(loop):
    async def main():
        return in_thread(lambda: loop.call_soon_threadsafe(int))

    assert isinstance(loop.run_until_complete(main()), asyncio.Handle)


def test_wrong_thread_through_a_future(loop):
    """set_result() schedules the callbacks, here from the wrong thread."""

    async def main():
        future = loop.create_future()
        future.add_done_callback(int)
        return in_thread(lambda: future.set_result(None))

    if loop.get_debug():
        assert str(loop.run_until_complete(main())) == THREAD_TEXT


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_coroutines_are_refused_as_callbacks(loop, method):
    before = (0,) if method in ("call_later", "call_at") else ()
    name = {"call_later": "call_at"}.get(method, method)
    coroutine = nothing()
    for thing in (nothing, coroutine, functools.partial(nothing)):
        if not loop.get_debug():
            getattr(loop, method)(*before, thing).cancel()
        else:
            with pytest.raises(TypeError) as caught:
                getattr(loop, method)(*before, thing)
            assert str(caught.value) == f"coroutines cannot be used with {name}()"
    coroutine.close()


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
@pytest.mark.parametrize("thing", [None, 42, "text"])
def test_callbacks_must_be_callable(loop, method, thing):
    before = (0,) if method in ("call_later", "call_at") else ()
    name = {"call_later": "call_at"}.get(method, method)
    if loop.get_debug():
        with pytest.raises(TypeError) as caught:
            getattr(loop, method)(*before, thing)
        assert str(caught.value) == (f"a callable object was expected by {name}(), got {thing!r}")
    else:
        getattr(loop, method)(*before, thing).cancel()


def test_a_non_callable_fails_when_it_runs(loop):
    reported = []
    loop.set_debug(False)
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    loop.call_soon(None)
    drain(loop)
    loop.set_exception_handler(None)
    (context,) = reported
    assert str(context["exception"]) == "'NoneType' object is not callable"
    reported.clear()


def test_executor_refuses_coroutines(loop):
    coroutine = nothing()
    for thing in (nothing, coroutine):
        if loop.get_debug():
            with pytest.raises(TypeError) as caught:
                loop.run_in_executor(None, thing)
            assert str(caught.value) == "coroutines cannot be used with run_in_executor()"
    coroutine.close()


def slow():
    time.sleep(0.03)


def test_slow_callback_is_reported(loop, log):
    loop.slow_callback_duration = 0.01
    loop.call_soon(slow)
    drain(loop)
    messages = [text for text in log.messages() if "slow" in text]
    if not loop.get_debug():
        assert messages == []
        return
    (message,) = messages
    place = re.escape(f"{__file__}:{slow.__code__.co_firstlineno}")
    created = re.escape(__file__) + r":\d+"
    assert re.fullmatch(
        rf"Executing <Handle slow\(\) at {place} created at {created}> took 0\.\d\d\d seconds",
        message,
    )


def test_slow_timer_is_reported(loop, log):
    loop.slow_callback_duration = 0.01
    loop.call_later(0, slow)
    drain(loop)
    drain(loop)
    messages = [text for text in log.messages() if "slow" in text]
    if loop.get_debug():
        (message,) = messages
        assert message.startswith("Executing <TimerHandle when=")
    else:
        assert messages == []


def test_slow_task_step_is_reported(loop, log):
    async def sluggish():
        slow()

    loop.slow_callback_duration = 0.01
    loop.run_until_complete(loop.create_task(sluggish(), name="turtle"))
    messages = [text for text in log.messages() if "turtle" in text]
    if not loop.get_debug():
        assert messages == []
        return
    (message,) = messages
    assert re.fullmatch(
        r"Executing <Task finished name='turtle' coro=<test_slow_task_step_is_reported\.<locals>\."
        rf"sluggish\(\) done, defined at {re.escape(__file__)}:\d+> result=None "
        rf"created at {re.escape(__file__)}:\d+> took 0\.\d\d\d seconds",
        message,
    ), message


def test_slow_wake_up_is_reported(loop, log):
    async def sluggish():
        await asyncio.sleep(0)
        await future
        slow()

    future = loop.create_future()
    loop.slow_callback_duration = 0.01
    loop.call_later(0.002, future.set_result, None)
    loop.run_until_complete(loop.create_task(sluggish(), name="turtle"))
    messages = [text for text in log.messages() if "turtle" in text]
    if loop.get_debug():
        (message,) = messages
        assert message.startswith("Executing <Task finished name='turtle' coro=<")
    else:
        assert messages == []


def test_fast_callbacks_are_not_reported(loop, log):
    loop.slow_callback_duration = 10
    loop.call_soon(slow)
    drain(loop)
    assert log.messages() == []


def test_source_traceback_of_futures_and_tasks(loop, flavour):
    coroutine = nothing()
    things = [flavour.Future(loop=loop), loop.create_task(nothing())]
    things.append(flavour.Task(coroutine, loop=loop))
    loop.run_until_complete(asyncio.wait(things[1:]))
    for thing in things:
        if loop.get_debug():
            assert thing._source_traceback[-1].filename == __file__
            name = "test_source_traceback_of_futures_and_tasks"
            assert thing._source_traceback[-1].name == name
        else:
            assert not thing._source_traceback


def test_source_traceback_is_the_whole_stack(loop, flavour):
    if not loop.get_debug():
        return

    def deep(function, calls=30):
        return function() if calls == 0 else deep(function, calls - 1)

    tasks = [
        deep(lambda: loop.create_task(nothing())),
        deep(lambda: flavour.Task(nothing(), loop=loop)),
    ]
    for thing in (deep(loop.create_future), deep(lambda: flavour.Future(loop=loop)), *tasks):
        names = [frame.name for frame in thing._source_traceback]
        assert names.count("deep") == 31
        assert names[0] != "deep"
    loop.run_until_complete(asyncio.wait(tasks))


def test_source_traceback_of_create_future(loop):
    """asyncio also shows its own line below the caller's; a native loop has no such line."""
    future = loop.create_future()
    if loop.get_debug():
        files = [frame.filename for frame in future._source_traceback]
        while files[-1] == asyncio.base_events.__file__:
            files.pop()
        assert files[-1] == __file__
    else:
        assert not future._source_traceback


def test_created_at_in_repr(loop, flavour):
    future = flavour.Future(loop=loop)
    line = sys._getframe().f_lineno - 1
    if loop.get_debug():
        assert repr(future) == f"<Future pending created at {__file__}:{line}>"
    else:
        assert repr(future) == "<Future pending>"


def test_tracebacks_depend_on_debug_mode_at_creation(loop):
    loop.set_debug(False)
    plain = loop.create_future()
    loop.set_debug(True)
    traced = loop.create_future()
    loop.set_debug(False)
    assert not plain._source_traceback
    assert traced._source_traceback
    assert "created at" in repr(traced)


def test_coroutine_origins_are_tracked_while_running(loop):
    depths = []
    before = sys.get_coroutine_origin_tracking_depth()
    loop.call_soon(lambda: depths.append(sys.get_coroutine_origin_tracking_depth()))
    drain(loop)
    depth = asyncio.constants.DEBUG_STACK_DEPTH
    assert depths == [depth if loop.get_debug() else before]
    assert sys.get_coroutine_origin_tracking_depth() == before


def test_origin_tracking_keeps_a_depth_set_before(loop):
    sys.set_coroutine_origin_tracking_depth(3)
    try:
        drain(loop)
        assert sys.get_coroutine_origin_tracking_depth() == 3
    finally:
        sys.set_coroutine_origin_tracking_depth(0)


def test_set_debug_while_running(loop):
    async def main():
        depths = []
        for value in (True, False, True):
            loop.set_debug(value)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            depths.append(sys.get_coroutine_origin_tracking_depth())
        return depths

    depth = asyncio.constants.DEBUG_STACK_DEPTH
    assert loop.run_until_complete(main()) == [depth, 0, depth]
    assert sys.get_coroutine_origin_tracking_depth() == 0


def test_never_awaited_coroutine_shows_its_origin(loop):
    async def main():
        nothing()
        gc.collect()

    with pytest.warns(RuntimeWarning) as caught:
        loop.run_until_complete(main())
    (message,) = [str(w.message) for w in caught]
    assert message.startswith("coroutine 'nothing' was never awaited")
    assert ("Coroutine created at (most recent call last)" in message) is loop.get_debug()


def test_run_in_debug(flavour):
    async def main():
        return asyncio.get_running_loop().get_debug()

    assert flavour.run(main()) is flavour.debug


def test_blocking_sockets_are_refused(loop):
    left, right = socket.socketpair()
    with left, right:
        coroutine = loop.sock_recv(left, 1)
        if loop.get_debug():
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                loop.run_until_complete(coroutine)
        else:
            coroutine.close()
