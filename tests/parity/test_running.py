"""run_forever, run_until_complete, stop, close, and the warnings of a dropped loop."""

import asyncio
import gc
import re
import subprocess
import sys
import threading
import warnings
import weakref

import pytest


async def nothing():
    return "result"


async def forever():
    await asyncio.Event().wait()


def test_state(loop):
    states = []
    assert (loop.is_running(), loop.is_closed()) == (False, False)
    loop.call_soon(lambda: states.append((loop.is_running(), loop.is_closed())))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert states == [(True, False)]
    assert not loop.is_running()
    loop.close()
    assert (loop.is_running(), loop.is_closed()) == (False, True)


def test_repr(loop):
    debug = loop.get_debug()
    name = type(loop).__name__
    assert repr(loop) == f"<{name} running=False closed=False debug={debug}>"
    loop.close()
    assert repr(loop) == f"<{name} running=False closed=True debug={debug}>"


def test_class(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop, asyncio.BaseEventLoop)


def test_loops_are_hashable_weak_and_accept_attributes(loop):
    assert {loop: 1}[loop] == 1
    assert weakref.ref(loop)() is loop
    loop.something = 42
    assert loop.something == 42
    del loop.something


def test_run_until_complete_returns_the_result(loop):
    assert loop.run_until_complete(nothing()) == "result"
    future = loop.create_future()
    loop.call_soon(future.set_result, 3)
    assert loop.run_until_complete(future) == 3
    assert loop.run_until_complete(loop.create_task(nothing())) == "result"


def test_run_until_complete_of_a_done_future(loop):
    future = loop.create_future()
    future.set_result(5)
    assert loop.run_until_complete(future) == 5


def test_run_until_complete_accepts_awaitables(loop):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    assert loop.run_until_complete(Awaitable()) == "awaited"


def test_run_until_complete_raises(loop):
    async def fail():
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        loop.run_until_complete(fail())
    future = loop.create_future()
    loop.call_soon(future.cancel)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(future)


@pytest.mark.parametrize("thing", [None, 42, "text", print, nothing])
def test_run_until_complete_requires_an_awaitable(loop, thing):
    with pytest.raises(TypeError) as caught:
        loop.run_until_complete(thing)
    expected = "An asyncio.Future, a coroutine or an awaitable is required"
    assert str(caught.value) == expected


def test_run_until_complete_stopped_too_early(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError) as caught:
        loop.run_until_complete(future)
    assert str(caught.value) == "Event loop stopped before Future completed."


def test_run_until_complete_removes_its_callback(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError):
        loop.run_until_complete(future)
    assert future.remove_done_callback(asyncio.base_events._run_until_complete_cb) == 0
    assert "cb=" not in repr(future)


def test_the_root_task_is_recognised_by_its_callback(loop):
    """Libraries look for this callback to find the task that run_until_complete() waits for."""

    async def main():
        return [callback for callback, _ in asyncio.current_task()._callbacks]

    assert loop.run_until_complete(main()) == [asyncio.base_events._run_until_complete_cb]


def test_run_until_complete_of_another_loops_future(loop, flavour):
    other = flavour.new_loop()
    try:
        future = other.create_future()
        with pytest.raises(ValueError, match="different loop") as caught:
            loop.run_until_complete(future)
        assert str(caught.value) == (
            "The future belongs to a different loop than the one specified as the loop argument"
        )
    finally:
        other.close()


@pytest.mark.parametrize("method", ["run_forever", "run_until_complete"])
def test_running_twice(loop, flavour, method):
    caught = []

    async def main():
        try:
            if method == "run_forever":
                loop.run_forever()
            else:
                loop.run_until_complete(loop.create_future())
        except RuntimeError as error:
            caught.append(str(error))
        if not keeps_running_state_after_a_refused_run(flavour):
            assert asyncio.get_running_loop() is loop
            assert loop.is_running()

    loop.run_until_complete(main())
    assert caught == ["This event loop is already running"]
    assert not loop.is_running()


def keeps_running_state_after_a_refused_run(flavour):
    """False on 3.13, whose loop no longer counts as running after it refuses a second run."""
    return flavour.is_asyncio and sys.version_info[:2] == (3, 13)


def test_running_inside_another_loop(loop, flavour):
    other = flavour.new_loop()
    caught = []

    async def main():
        try:
            other.run_forever()
        except RuntimeError as error:
            caught.append(str(error))

    loop.run_until_complete(main())
    other.close()
    assert caught == ["Cannot run the event loop while another loop is running"]


def test_running_from_another_thread_while_running(loop, flavour):
    if keeps_running_state_after_a_refused_run(flavour):
        pytest.skip("leaves this thread without its running loop")
    caught = []

    def other():
        try:
            loop.run_forever()
        except RuntimeError as error:
            caught.append(str(error))

    async def main():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    loop.run_until_complete(main())
    assert caught == ["This event loop is already running"]


def test_closing_while_running(loop):
    caught = []

    async def main():
        try:
            loop.close()
        except RuntimeError as error:
            caught.append(str(error))

    loop.run_until_complete(main())
    assert caught == ["Cannot close a running event loop"]
    assert not loop.is_closed()


def test_closing_twice(loop):
    loop.close()
    loop.close()
    assert loop.is_closed()


@pytest.mark.parametrize("method", ["run_forever", "stop"])
def test_closed_loop(loop, method):
    loop.close()
    if method == "stop":
        loop.stop()
        return
    with pytest.raises(RuntimeError) as caught:
        loop.run_forever()
    assert str(caught.value) == "Event loop is closed"


def test_closed_loop_refuses_coroutines(loop):
    loop.close()
    coroutine = nothing()
    with pytest.raises(RuntimeError) as caught:
        loop.run_until_complete(coroutine)
    assert str(caught.value) == "Event loop is closed"
    coroutine.close()
    coroutine = nothing()
    with pytest.raises(RuntimeError) as caught:
        loop.create_task(coroutine)
    assert str(caught.value) == "Event loop is closed"
    coroutine.close()


def test_closed_loop_refuses_executors(loop):
    loop.close()
    with pytest.raises(RuntimeError) as caught:
        loop.run_in_executor(None, int)
    assert str(caught.value) == "Event loop is closed"


def test_closed_loop_still_creates_futures(loop):
    loop.close()
    assert not loop.create_future().done()
    assert isinstance(loop.time(), float)


def test_get_running_loop(loop):
    async def main():
        return asyncio.get_running_loop(), asyncio.get_event_loop()

    assert loop.run_until_complete(main()) == (loop, loop)
    assert asyncio._get_running_loop() is None
    with pytest.raises(RuntimeError) as caught:
        asyncio.get_running_loop()
    assert str(caught.value) == "no running event loop"


def test_get_running_loop_in_callbacks_and_after_errors(loop):
    seen = []
    loop.call_soon(lambda: seen.append(asyncio.get_running_loop()))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [loop]

    def interrupt():
        raise SystemExit(3)

    loop.call_soon(interrupt)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert asyncio._get_running_loop() is None
    assert not loop.is_running()


def test_stop_is_remembered_only_once(loop):
    loop.stop()
    loop.stop()
    loop.run_forever()
    future = loop.create_future()
    loop.call_later(0.01, future.set_result, None)
    loop.run_until_complete(future)


def test_stop_from_a_thread(loop):
    timer = threading.Timer(0.05, loop.call_soon_threadsafe, (loop.stop,))
    timer.start()
    loop.run_forever()
    timer.join()


def test_run_in_a_thread(flavour):
    results = []

    def work():
        loop = flavour.new_loop()
        try:
            results.append(loop.run_until_complete(nothing()))
        finally:
            loop.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["result"] * 4


def test_a_loop_may_run_in_different_threads(loop):
    results = []
    results.append(loop.run_until_complete(nothing()))
    thread = threading.Thread(
        target=lambda: results.append(loop.run_until_complete(nothing())),
    )
    thread.start()
    thread.join()
    results.append(loop.run_until_complete(nothing()))
    assert results == ["result"] * 3


def test_many_loops_in_turn(flavour):
    for _ in range(50):
        loop = flavour.new_loop()
        loop.run_until_complete(asyncio.wait_for(asyncio.sleep(0, "x"), 5))
        loop.close()


def test_dropped_unclosed(flavour):
    loop = flavour.new_loop()
    loop.run_until_complete(nothing())
    text = repr(loop)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop
        gc.collect()
    found = [w for w in caught if issubclass(w.category, ResourceWarning)]
    assert f"unclosed event loop {text}" in [str(w.message) for w in found]


def test_dropped_closed_is_silent(flavour):
    loop = flavour.new_loop()
    loop.run_until_complete(nothing())
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop
        gc.collect()
    assert caught == []


def test_interpreter_exit_with_an_unclosed_loop(flavour):
    code = f"""
import asyncio, {flavour.name}
loop = asyncio.SelectorEventLoop() if {flavour.is_asyncio} else {flavour.name}.new_event_loop()
loop.set_debug({flavour.debug})
loop.slow_callback_duration = 60
async def main():
    global task
    task = asyncio.create_task(asyncio.sleep(100))
    await asyncio.sleep(0)
    loop.call_later(100, print)
    return await loop.run_in_executor(None, int, '42')
print(loop.run_until_complete(main()), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0
    assert done.stdout == "42\n"
    assert re.fullmatch(r"(Task was destroyed but it is pending!\n(.*\n)*)?", done.stderr), (
        done.stderr
    )


def test_pending_tasks_survive_runs(loop):
    order = []

    async def worker():
        for i in range(3):
            order.append(i)
            await asyncio.sleep(0)

    task = loop.create_task(worker())
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == [0]
    loop.run_until_complete(task)
    assert order == [0, 1, 2]


def test_close_with_pending_task_reports_it(loop, log):
    loop.create_task(forever(), name="left")
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    gc.collect()
    (message,) = log.messages()
    assert message.startswith("Task was destroyed but it is pending!\n")
    assert "task: <Task pending name='left' coro=<forever()" in message
