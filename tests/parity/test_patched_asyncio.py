"""What tools replace in asyncio at run time: `Handle._run`, `call_soon`, clocks, selectors."""

import asyncio
import functools
import socket
import time
from asyncio.base_events import _format_handle

import pytest

from ..support.programs import run_program


class SeenHandles(list):
    def __init__(self):
        self.names = []


@pytest.fixture
def handles(monkeypatch):
    """Every handle that runs, as seen by a tool that wraps `Handle._run`."""
    original, seen = asyncio.events.Handle._run, SeenHandles()

    @functools.wraps(original)
    def instrumented(self):
        seen.append(self)
        # Before it runs: a cancelled handle drops its callback.
        seen.names.append(str(getattr(self._callback, "__qualname__", None)))
        return original(self)

    monkeypatch.setattr(asyncio.events.Handle, "_run", instrumented)
    yield seen
    seen.clear()


def test_plain_callbacks_and_timers(loop, handles):
    def callback(argument):
        seen.append(argument)

    seen = []
    loop.call_soon(callback, 1)
    loop.call_later(0, callback, 2)
    loop.call_soon(callback, 3).cancel()
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert seen == [1, 2]
    assert [handle._args for handle in handles] == [(1,), (2,), ()]
    assert all(isinstance(handle, asyncio.Handle) for handle in handles)


def test_handles_of_steps_name_their_task(loop, handles):
    async def child():
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    async def main():
        await asyncio.create_task(child(), name="the child")

    loop.run_until_complete(main())
    tasks = [getattr(handle._callback, "__self__", None) for handle in handles]
    steps = [task.get_name() for task in tasks if isinstance(task, asyncio.Task)]
    assert steps.count("the child") == 3
    child_handle = next(h for h, t in zip(handles, tasks, strict=True) if "the child" in repr(t))
    assert _format_handle(child_handle).startswith("<Task finished name='the child'")
    del tasks, child_handle


def test_results_and_exceptions_pass_through(loop, handles):
    async def fails():
        await asyncio.sleep(0)
        raise LookupError("of the task")

    async def main():
        with pytest.raises(LookupError, match="of the task"):
            await asyncio.create_task(fails())
        future = loop.create_future()
        loop.call_soon(future.set_exception, ValueError("of the future"))
        with pytest.raises(ValueError, match="of the future"):
            await future
        task = asyncio.create_task(asyncio.sleep(10))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.current_task().get_name()

    task = loop.create_task(main(), name="main")
    assert loop.run_until_complete(task) == "main"
    assert handles
    assert asyncio._get_running_loop() is None


def test_exceptions_in_callbacks_are_reported_once(loop, handles, log):
    def fails():
        raise LookupError

    loop.call_soon(fails)
    loop.call_soon(loop.stop)
    loop.run_forever()
    (text,) = log.messages()
    assert text.startswith("Exception in callback test_exceptions_in_callbacks")


@pytest.mark.parametrize("stopper", [KeyboardInterrupt, SystemExit])
def test_stopping_still_works(loop, handles, stopper):
    def stop():
        raise stopper

    loop.call_soon(stop)
    with pytest.raises(stopper):
        loop.run_forever()


def test_done_callbacks_run_in_their_context_and_order(loop, handles):
    order = []
    future = loop.create_future()
    for number in range(3):
        future.add_done_callback(lambda future, n=number: order.append((n, future.result())))
    future.set_result("x")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == [(0, "x"), (1, "x"), (2, "x")]
    assert [handle._args for handle in handles[:3]] == [(future,)] * 3


def test_streams_and_readers(loop, handles):
    async def answer(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.read() == b"hello\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        left, right = socket.socketpair()
        with left, right:
            readable = loop.create_future()
            loop.add_reader(right, readable.set_result, None)
            left.send(b"x")
            await readable
            loop.remove_reader(right)
            right.setblocking(False)
            assert await loop.sock_recv(right, 10) == b"x"
        assert await loop.run_in_executor(None, int, "7") == 7
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    assert any("_read_ready" in name for name in handles.names)
    assert any("connection_made" in name for name in handles.names)
    assert any("_call_connection_lost" in name for name in handles.names)


def test_replaced_and_restored_while_the_loop_runs(loop, monkeypatch):
    original, seen = asyncio.events.Handle._run, []

    def instrumented(self):
        seen.append(self._callback)
        original(self)

    async def main():
        await asyncio.sleep(0)
        asyncio.events.Handle._run = instrumented
        try:
            await asyncio.sleep(0)
            loop.call_soon(marker)
            await asyncio.sleep(0)
        finally:
            asyncio.events.Handle._run = original
        await asyncio.sleep(0)
        count = len(seen)
        loop.call_soon(marker)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return count

    def marker():
        pass

    count = loop.run_until_complete(main())
    assert marker in seen
    assert len(seen) == count
    seen.clear()


def test_exceptions_of_the_patch_leave_the_loop(loop, monkeypatch):
    def broken(self):
        raise RuntimeError("of the tool")

    monkeypatch.setattr(asyncio.events.Handle, "_run", broken)
    loop.call_soon(int)
    with pytest.raises(RuntimeError, match="of the tool"):
        loop.run_forever()


def test_call_soon_replaced_on_the_loop(loop):
    original, seen = loop.call_soon, []

    def call_soon(callback, *args, context=None):
        seen.append(callback)
        return original(callback, *args, context=context)

    async def child():
        await asyncio.sleep(0)
        return 5

    async def main():
        loop.call_soon = call_soon
        task = loop.create_task(child(), name="the child")
        future = loop.create_future()
        future.add_done_callback(future_done)
        future.set_result(None)
        assert await task == 5
        del loop.call_soon
        count = len(seen)
        await asyncio.sleep(0)
        assert len(seen) == count

    def future_done(future):
        pass

    loop.run_until_complete(main())
    tasks = [getattr(callback, "__self__", None) for callback in seen]
    assert [t.get_name() for t in tasks if isinstance(t, asyncio.Task)].count("the child") == 2
    assert future_done in seen
    del tasks
    seen.clear()


def test_call_soon_overridden_by_a_subclass(flavour):
    class Counting(_loop_class(flavour)):
        count = 0

        def call_soon(self, callback, *args, context=None):
            self.count += 1
            return super().call_soon(callback, *args, context=context)

    loop = Counting()
    loop.set_debug(flavour.debug)
    loop.run_until_complete(asyncio.sleep(0))
    # The first step, the second one, and the callback that ends run_until_complete().
    assert loop.count == 3
    loop.close()


def _loop_class(flavour):
    return asyncio.SelectorEventLoop if flavour.is_asyncio else flavour.module.EventLoop


def test_a_clock_added_to_the_class_later(flavour):
    class Virtual(_loop_class(flavour)):
        now = 1000.0

        def time(self):
            return self.now

    loop = flavour.new_loop()
    loop.__class__ = Virtual
    fired = []
    loop.call_at(1000.0, fired.append, 1)
    loop.call_at(1001.0, fired.append, 2)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert fired == [1]
    loop.close()


def test_a_virtual_clock_in_the_selector(loop):
    """Like looptime: the selector advances the time instead of sleeping."""
    now = 0.0

    def select(timeout):
        nonlocal now
        ready = original(0)
        if not ready and timeout:
            now += timeout
        return ready

    original = loop._selector.select
    loop.time = lambda: now
    loop._selector.select = select

    async def main():
        await asyncio.sleep(3600)
        return await asyncio.wait_for(loop.create_future(), 60)

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        loop.run_until_complete(main())
    assert now == pytest.approx(3660)
    assert time.monotonic() - started < 30
    del loop._selector.select
    del loop.time


@pytest.mark.only("ferroloop")  # asyncio has it only in debug mode
@pytest.mark.mode("plain")
def test_slow_callbacks_outside_of_debug_mode(loop, log):
    async def slow():
        time.sleep(0.02)

    loop.slow_callback_duration = 0.01
    loop.run_until_complete(slow())
    assert log.messages() == []
    loop.report_slow_callbacks()
    loop.call_soon(time.sleep, 0.02)
    loop.run_until_complete(loop.create_task(slow(), name="slow"))
    first, second = log.messages()
    assert first.startswith("Executing <Handle sleep(")
    assert second.startswith("Executing <Task finished name='slow'")
    assert loop.metrics().slow_callbacks == 2
    loop.report_slow_callbacks(False)
    loop.run_until_complete(slow())
    assert log.messages() == []


HALF_IMPORTED = """
import importlib.util

name = "concurrent.futures.thread"
spec = importlib.util.find_spec(name)
module = importlib.util.module_from_spec(spec)
# As importlib does while it runs the module, in which other threads may go on.
spec._initializing = True
sys.modules[name] = module
loop = new_event_loop()
loop.run_until_complete(asyncio.sleep(0))
spec.loader.exec_module(module)
spec._initializing = False
print(loop.run_until_complete(loop.run_in_executor(None, int)))
print(type(loop._default_executor) is module.ThreadPoolExecutor)
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""


@pytest.mark.only("ferroloop")
def test_a_module_that_another_thread_is_importing(flavour):
    """What it does not have yet does not count as replaced."""
    assert run_program(flavour, HALF_IMPORTED) == (0, "0\nFalse\n", "")
