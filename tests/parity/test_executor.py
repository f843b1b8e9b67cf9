"""run_in_executor, to_thread, the default executor: results, threads, cancellation, shutdown."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import sys
import sysconfig
import threading
import time
import traceback
import warnings
import weakref

import pytest

from ..support.programs import run_program

RUN = """
    def run(main):
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main)
"""

VAR = contextvars.ContextVar("VAR", default="default")


def limit() -> int:
    """The maximum number of threads of a default executor."""
    with concurrent.futures.ThreadPoolExecutor() as executor:
        return executor._max_workers


class Gate:
    """A blocking function for threads: signals that it runs, then waits until it is released."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self, result=None):
        self.entered.release()
        assert self.opened.wait(10)
        return result

    async def wait_for_calls(self, count):
        for _ in range(count):
            while not self.entered.acquire(blocking=False):
                await asyncio.sleep(0.001)


# ---------------------------------------------------------------- results


def test_result_and_arguments(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, lambda: 42) == 42
        assert await loop.run_in_executor(None, lambda *args: args) == ()
        assert await loop.run_in_executor(None, lambda *args: args, 1) == (1,)
        assert await loop.run_in_executor(None, lambda *args: args, 1, "two", None) == (
            1,
            "two",
            None,
        )
        assert await loop.run_in_executor(None, lambda: None) is None
        assert await loop.run_in_executor(None, pow, 2, 10) == 1024
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        assert await loop.run_in_executor(executor=None, func=threading.get_ident) != (
            threading.get_ident()
        )

    run(main())


def test_call_errors(run):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match="missing 2 required positional arguments"):
            loop.run_in_executor()
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'func'"):
            loop.run_in_executor(None)
        with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
            loop.run_in_executor(None, len, nonsense=1)

    run(main())


def test_returns_a_future_of_the_loop(run, flavour):
    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        future = loop.run_in_executor(None, gate)
        assert isinstance(future, asyncio.Future)
        assert not future.done()
        assert future.get_loop() is loop
        if flavour.name == "ferroloop":
            assert type(future) is flavour.Future
        gate.opened.set()
        await future

    run(main())


def test_exception_keeps_its_traceback(run):
    class Custom(Exception):
        pass

    def fails():
        raise Custom("text")

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(Custom, match="text") as caught:
            await loop.run_in_executor(None, fails)
        assert "fails" in [frame.name for frame in traceback.extract_tb(caught.tb)]

    run(main())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_base_exceptions_are_delivered_too(loop, kind):
    def fails():
        raise kind("text")

    future = loop.run_in_executor(None, fails)
    future.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    assert type(future.exception()) is kind
    assert future.exception().args == ("text",)
    # The thread survives.
    assert loop.run_until_complete(loop.run_in_executor(None, int)) == 0


def test_concurrent_futures_exceptions_become_asyncios(run):
    def fails(kind):
        raise kind("text")

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(asyncio.CancelledError) as caught:
            await loop.run_in_executor(None, fails, concurrent.futures.CancelledError)
        assert caught.value.args == ("text",)
        with pytest.raises(asyncio.InvalidStateError):
            await loop.run_in_executor(None, fails, concurrent.futures.InvalidStateError)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio never completes the future")
def test_stop_iteration_becomes_runtime_error(run):
    def fails():
        raise StopIteration("text")

    async def main():
        with pytest.raises(RuntimeError) as caught:
            await asyncio.get_running_loop().run_in_executor(None, fails)
        assert isinstance(caught.value.__cause__, StopIteration)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="not reported before 3.13")
def test_stop_iteration_under_wait_for(run):
    async def main():
        loop = asyncio.get_running_loop()

        def stop():
            raise StopIteration

        with pytest.raises(RuntimeError):
            await asyncio.wait_for(loop.run_in_executor(None, stop), 5)

    run(main())


def test_callbacks_are_called_in_order(run):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        for number in range(20):
            future = loop.run_in_executor(None, int)
            future.add_done_callback(lambda _, number=number: seen.append(number))
            await future
        await asyncio.sleep(0)
        assert seen == list(range(20))

    run(main())


def test_coroutine_functions_are_refused_in_debug_mode(run, flavour):
    async def coroutine():
        pass

    async def main():
        loop = asyncio.get_running_loop()
        if flavour.debug:
            with pytest.raises(TypeError, match=r"coroutines cannot be used with run_in_executor"):
                loop.run_in_executor(None, coroutine)
            with pytest.raises(TypeError, match="a callable object was expected by run_in_exec"):
                loop.run_in_executor(None, 1)
        else:
            (await loop.run_in_executor(None, coroutine)).close()

    run(main())


def test_many_jobs(run, flavour):
    count = 2_000 if flavour.is_asyncio or flavour.debug else 100_000

    async def main():
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(None, lambda n=n: n * n) for n in range(count)]
        assert await asyncio.gather(*jobs) == [n * n for n in range(count)]

    run(main())


def test_from_another_thread_than_the_loops(run):
    """Not supported by asyncio, but programs do it."""

    async def main():
        loop = asyncio.get_running_loop()
        got = concurrent.futures.Future()

        def submit():
            future = loop.run_in_executor(None, lambda: "result")
            loop.call_soon_threadsafe(
                future.add_done_callback, lambda future: got.set_result(future.result())
            )

        threading.Thread(target=submit).start()
        assert await asyncio.wrap_future(got) == "result"

    run(main())


# ---------------------------------------------------------------- contexts


@pytest.mark.skipif(
    getattr(sys.flags, "thread_inherit_context", False), reason="a worker inherits a context"
)
def test_run_in_executor_does_not_copy_the_context(run):
    async def main():
        VAR.set("task")
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, VAR.get) == "default"

    run(main())


def test_a_thread_keeps_its_own_context(run):
    """A variable set by a job in its thread's context is seen by later jobs of that thread."""

    async def main():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, VAR.set, "of the thread")
        assert await loop.run_in_executor(None, VAR.get) == "of the thread"

    run(main())


def test_to_thread_copies_the_context(run):
    async def main():
        VAR.set("task")
        assert await asyncio.to_thread(VAR.get) == "task"
        await asyncio.to_thread(VAR.set, "thread")
        assert VAR.get() == "task"
        assert await asyncio.to_thread(lambda *args, **kwargs: (args, kwargs), 1, b=2) == (
            (1,),
            {"b": 2},
        )

    run(main())


# ---------------------------------------------------------------- threads


def test_workers_are_threads_of_threading(run):
    async def main():
        loop = asyncio.get_running_loop()

        def look():
            thread = threading.current_thread()
            return thread, thread in threading.enumerate(), thread.ident == threading.get_ident()

        thread, listed, identified = await loop.run_in_executor(None, look)
        assert type(thread) is threading.Thread
        assert listed
        assert identified
        assert thread.name == "asyncio_0"
        assert not thread.daemon
        assert thread.is_alive()
        assert thread.native_id is not None
        await loop.shutdown_default_executor()
        assert not thread.is_alive()
        assert thread not in threading.enumerate()

    run(main())


def test_sequential_jobs_share_a_thread(run):
    async def main():
        loop = asyncio.get_running_loop()
        names = set()
        for _ in range(50):
            names.add(await loop.run_in_executor(None, lambda: threading.current_thread().name))
            await asyncio.sleep(0.002)  # until the thread is idle
        assert names == {"asyncio_0"}

    run(main())


def test_overlapping_jobs_have_a_thread_each_up_to_the_limit(run):
    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        name = lambda: (gate(), threading.current_thread().name)[1]  # noqa: E731
        jobs = [loop.run_in_executor(None, name) for _ in range(limit() + 5)]
        await gate.wait_for_calls(limit())
        await asyncio.sleep(0.02)
        assert not gate.entered.acquire(blocking=False)
        assert len(loop._default_executor._threads) == limit()
        gate.opened.set()
        names = await asyncio.gather(*jobs)
        assert set(names) == {f"asyncio_{n}" for n in range(limit())}

    run(main())


def test_thread_locals_and_hooks(run):
    calls = []
    local = threading.local()

    def hook(frame, event, arg):
        if frame.f_code.co_name == "traced":
            calls.append((event, threading.current_thread().name))

    def traced():
        local.value = getattr(local, "value", 0) + 1
        return local.value

    async def main():
        loop = asyncio.get_running_loop()
        threading.setprofile(hook)
        try:
            assert await loop.run_in_executor(None, traced) == 1
        finally:
            threading.setprofile(None)
        assert await loop.run_in_executor(None, traced) == 2
        assert not hasattr(local, "value")

    run(main())
    assert calls[0] == ("call", "asyncio_0")
    assert calls[-1] == ("return", "asyncio_0")


def test_trace_hook(run):
    calls = []

    def hook(frame, event, arg):
        if frame.f_code.co_name == "traced":
            calls.append(event)
        return hook

    def traced():
        return 1

    async def main():
        loop = asyncio.get_running_loop()
        threading.settrace(hook)
        try:
            assert await loop.run_in_executor(None, traced) == 1
        finally:
            threading.settrace(None)

    run(main())
    assert calls == ["call", "line", "return"]


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without a GIL asyncio keeps some as well",
)
def test_threads_keep_no_references_to_finished_jobs(run):
    class Thing:
        pass

    async def gone(there):
        # A thread may still be between delivering the result and releasing it.
        end = time.monotonic() + 5
        while there() is not None and time.monotonic() < end:
            await asyncio.sleep(0.001)
        return there() is None

    async def main():
        loop = asyncio.get_running_loop()
        thing = Thing()
        there = weakref.ref(thing)
        job = loop.run_in_executor(None, lambda thing: None, thing)
        del thing
        await job
        assert await gone(there)

        result = await loop.run_in_executor(None, Thing)
        there = weakref.ref(result)
        del result
        assert await gone(there)

    run(main())


def test_jobs_run_in_parallel_with_the_loop(run):
    async def main():
        loop = asyncio.get_running_loop()
        ticks = 0
        gate = Gate()
        job = loop.run_in_executor(None, gate, "done")
        await gate.wait_for_calls(1)
        for _ in range(10):
            await asyncio.sleep(0.001)
            ticks += 1
        assert not job.done()
        gate.opened.set()
        assert await job == "done"
        assert ticks == 10

    run(main())


def test_jobs_run_in_parallel(run):
    async def main():
        loop = asyncio.get_running_loop()
        barrier = threading.Barrier(4, timeout=20)
        await asyncio.gather(*[loop.run_in_executor(None, barrier.wait) for _ in range(4)])

    run(main())


def test_loop_keeps_running_meanwhile(run):
    async def main():
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(None, time.sleep, 0.05)
        turns = 0
        while not job.done():
            turns += 1
            await asyncio.sleep(0.001)
        return turns

    assert run(main()) > 3


def test_jobs_run_while_the_loop_is_blocked(run):
    """A callback may block on a job, although that is unwise."""

    async def main():
        loop = asyncio.get_running_loop()
        done = threading.Event()
        job = loop.run_in_executor(None, done.set)
        assert done.wait(5)
        await job

    run(main())


# ---------------------------------------------------------------- cancellation


def test_a_cancelled_job_in_the_queue_never_runs(run):
    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        ran = []
        busy = [loop.run_in_executor(None, gate) for _ in range(limit())]
        await gate.wait_for_calls(limit())
        job = loop.run_in_executor(None, ran.append, 1)
        other = loop.run_in_executor(None, ran.append, 2)
        assert job.cancel()
        assert job.cancelled()
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(*busy)
        await other
        with pytest.raises(asyncio.CancelledError):
            await job
        assert ran == [2]

    run(main())


@pytest.mark.only("ferroloop")
def test_a_cancelled_job_leaves_the_queue_immediately(run):
    """asyncio keeps function and arguments until a thread reaches the job."""

    class Thing:
        pass

    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        busy = [loop.run_in_executor(None, gate) for _ in range(limit())]
        await gate.wait_for_calls(limit())
        thing = Thing()
        there = weakref.ref(thing)
        jobs = [loop.run_in_executor(None, print, thing) for _ in range(100)]
        del thing
        queue = loop._default_executor._work_queue
        assert queue.qsize() == 100
        for job in jobs:
            job.cancel()
        await asyncio.sleep(0)
        assert queue.qsize() == 0
        assert queue.empty()
        assert there() is None
        gate.opened.set()
        await asyncio.gather(*busy)

    run(main())


def test_cancelling_a_running_job_drops_its_result(run):
    class Thing:
        pass

    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        thing = Thing()
        there = weakref.ref(thing)
        job = loop.run_in_executor(None, gate, thing)
        del thing
        await gate.wait_for_calls(1)
        task = asyncio.ensure_future(asyncio.wait([job]))
        await asyncio.sleep(0)
        assert job.cancel()
        await task
        assert job.cancelled()
        gate.opened.set()
        await loop.run_in_executor(None, int)
        end = time.monotonic() + 5
        while there() is not None and time.monotonic() < end:
            await asyncio.sleep(0.001)
            gc.collect()
        assert there() is None

    run(main())


def test_cancelled_before_it_starts_on_an_explicit_executor(run):
    async def main():
        loop = asyncio.get_running_loop()
        go, ran = threading.Event(), []
        pool = concurrent.futures.ThreadPoolExecutor(1)
        busy = loop.run_in_executor(pool, go.wait, 20)
        waiting = loop.run_in_executor(pool, ran.append, 1)
        assert waiting.cancel()
        await asyncio.sleep(0)  # the executor's future is cancelled by a callback
        go.set()
        await busy
        pool.shutdown()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return ran

    assert run(main()) == []


def test_cancelled_while_it_runs(run):
    async def main():
        loop = asyncio.get_running_loop()
        started, go = threading.Event(), threading.Event()

        def work():
            started.set()
            go.wait(20)

        future = loop.run_in_executor(None, work)
        await loop.run_in_executor(None, started.wait, 20)
        assert future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        go.set()

    run(main())


def test_exception_after_cancellation_is_dropped(run, log):
    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()

        def fails():
            gate()
            raise ValueError

        job = loop.run_in_executor(None, fails)
        await gate.wait_for_calls(1)
        job.cancel()
        gate.opened.set()
        await loop.shutdown_default_executor()
        assert job.cancelled()

    run(main())
    assert log.messages() == []


def test_timeout_around_a_job(run):
    async def main():
        gate = Gate()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(gate), 0.01)
        gate.opened.set()

    run(main())


def test_unretrieved_exception(run, log):
    def fails():
        raise ValueError("lost")

    async def main():
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(None, fails)
        await asyncio.wait([job])
        del job
        gc.collect()

    run(main())
    (message,) = log.messages()
    assert message.startswith("Future exception was never retrieved\nfuture: <Future finished ")


# ---------------------------------------------------------------- user-supplied executors


def test_explicit_thread_executor(run):
    async def main():
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(1, "mine") as executor:
            name = await loop.run_in_executor(executor, lambda: threading.current_thread().name)
            assert name == "mine_0"
        assert loop._default_executor is None
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            await loop.run_in_executor(executor, int)

    run(main())


@pytest.mark.mode("plain")
def test_explicit_process_executor(flavour):
    """In a child process, because process pools leave descriptors and threads behind."""
    result = run_program(
        flavour,
        RUN
        + """
    import concurrent.futures, multiprocessing

    async def main():
        loop = asyncio.get_running_loop()
        context = multiprocessing.get_context("forkserver")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
            print(await loop.run_in_executor(executor, pow, 2, 10))
            try:
                await loop.run_in_executor(executor, pow, 2, "10")
            except TypeError:
                print("refused")

    run(main())
        """,
    )
    assert result == (0, "1024\nrefused\n", "")


def test_any_object_with_submit(run):
    class Immediate:
        def submit(self, fn, *args):
            future = concurrent.futures.Future()
            future.set_result(fn(*args))
            return future

    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(Immediate(), max, 1, 2) == 2
        with pytest.raises(AttributeError, match="submit"):
            loop.run_in_executor(object(), max, 1, 2)

    run(main())


def test_set_default_executor(run):
    async def main():
        loop = asyncio.get_running_loop()
        executor = concurrent.futures.ThreadPoolExecutor(1, "mine")
        loop.set_default_executor(executor)
        assert loop._default_executor is executor
        name = await asyncio.to_thread(lambda: threading.current_thread().name)
        assert name == "mine_0"

    run(main())


@pytest.mark.parametrize("other", [None, object(), "text"])
def test_set_default_executor_refuses_other_types(loop, other):
    with pytest.raises(TypeError, match=r"^executor must be ThreadPoolExecutor instance$"):
        loop.set_default_executor(other)
    assert loop._default_executor is None


def test_default_executor_is_a_thread_pool_executor(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert loop._default_executor is None
        await loop.run_in_executor(None, int)
        executor = loop._default_executor
        assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)
        assert executor._max_workers == limit()
        assert executor._thread_name_prefix == "asyncio"
        assert {thread.name for thread in executor._threads} == {"asyncio_0"}
        assert executor._work_queue.qsize() == 0
        assert executor._work_queue.empty()
        assert not executor._shutdown
        assert await loop.run_in_executor(executor, int) == 0

    run(main())


def test_default_executor_used_as_an_executor(run):
    def fails():
        raise ValueError("text")

    async def main():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, int)
        executor = loop._default_executor
        future = executor.submit(lambda *args, **kwargs: (args, kwargs), 1, two=2)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result(5) == ((1,), {"two": 2})
        assert executor.submit(max, 1, 2).result(5) == 2
        with pytest.raises(ValueError, match="text"):
            executor.submit(fails).result(5)
        assert list(executor.map(abs, [-1, -2, 3])) == [1, 2, 3]
        done, waiting = concurrent.futures.wait([executor.submit(int) for _ in range(5)], 5)
        assert len(done) == 5
        assert not waiting

        gate = Gate()
        busy = [executor.submit(gate) for _ in range(limit())]
        queued = executor.submit(int)
        assert queued.cancel()
        gate.opened.set()
        concurrent.futures.wait(busy, 5)
        assert queued.cancelled()

        executor.shutdown()
        with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
            executor.submit(int)
        with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
            loop.run_in_executor(None, int)

    run(main())


def test_default_executor_moves_to_another_loop(flavour):
    first, second = flavour.new_loop(), flavour.new_loop()
    try:
        first.run_until_complete(first.run_in_executor(None, int))
        second.set_default_executor(first._default_executor)
        assert second.run_until_complete(second.run_in_executor(None, int)) == 0
        assert second._default_executor is first._default_executor
        second.run_until_complete(second.shutdown_default_executor())
    finally:
        first.close()
        second.close()


def test_shutdown_cancels_queued_futures(run):
    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        busy = [loop.run_in_executor(None, gate, 1) for _ in range(limit())]
        await gate.wait_for_calls(limit())
        executor = loop._default_executor
        waiting = [loop.run_in_executor(None, int) for _ in range(3)]
        other = executor.submit(int)
        executor.shutdown(wait=False, cancel_futures=True)
        assert other.cancelled()
        for future in waiting:
            with pytest.raises(asyncio.CancelledError):
                await future
        gate.opened.set()
        assert await asyncio.gather(*busy) == [1] * limit()

    run(main())


# ---------------------------------------------------------------- shutdown


def test_shutdown_default_executor(run):
    async def main():
        loop = asyncio.get_running_loop()
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match=r"^Executor shutdown has been called$"):
            loop.run_in_executor(None, int)
        with pytest.raises(RuntimeError, match=r"^Executor shutdown has been called$"):
            await asyncio.to_thread(int)
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            assert await loop.run_in_executor(executor, int) == 0

    run(main())


def test_shutdown_after_use(loop):
    async def main():
        await loop.run_in_executor(None, int)
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError) as caught:
            loop.run_in_executor(None, int)
        return str(caught.value)

    assert loop.run_until_complete(main()) == "Executor shutdown has been called"


def test_shutdown_waits_for_jobs(run):
    async def main():
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(None, time.sleep, 0.03) for _ in range(limit() + 2)]
        await loop.shutdown_default_executor()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert all(job.done() for job in jobs)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="timeout= is new in 3.12")
def test_shutdown_timeout(run):
    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        job = loop.run_in_executor(None, gate)
        await gate.wait_for_calls(1)
        before = set(threading.enumerate())
        opener = threading.Timer(0.1, gate.opened.set)
        opener.start()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await loop.shutdown_default_executor(timeout=0.01)
        # Also asyncio's threads that wait for the pool's.
        for thread in set(threading.enumerate()) - before:
            thread.join(5)
        texts = [str(warning.message) for warning in caught]
        # 3.12 waits for the threads before it checks the clock.
        expected = "The executor did not finishing joining its threads within 0.01 seconds."
        assert texts == ([expected] if sys.version_info >= (3, 13) else [])
        await job

    run(main())


def test_closed_loop(flavour):
    loop = flavour.new_loop()
    loop.run_until_complete(loop.run_in_executor(None, int))
    executor = loop._default_executor
    loop.close()
    assert loop._default_executor is None
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        loop.run_in_executor(None, int)
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        executor.submit(int)


def test_jobs_accepted_before_close_run_to_their_end(flavour, log):
    loop = flavour.new_loop()
    gate = Gate()
    ran = []
    jobs = [loop.run_in_executor(None, gate) for _ in range(limit())]
    jobs.append(loop.run_in_executor(None, ran.append, 1))
    threads = set(loop._default_executor._threads)
    loop.close()
    gate.opened.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert ran == [1]
    assert not any(job.done() for job in jobs)
    assert log.messages() == []


def test_loop_dropped_without_close(flavour):
    loop = flavour.new_loop()
    loop.run_until_complete(loop.run_in_executor(None, int))
    (thread,) = loop._default_executor._threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop.close()
        del loop
        gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_no_thread_can_be_started(run, monkeypatch):
    async def main():
        loop = asyncio.get_running_loop()

        def start(self):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                loop.run_in_executor(None, int)
        assert await loop.run_in_executor(None, int) == 0

    run(main())


def test_interrupted_while_a_thread_starts(run, monkeypatch):
    """Ctrl-C between the start of a thread and the end of Thread.start()."""
    ran = []
    start = threading.Thread.start

    def interrupted(self):
        start(self)
        raise KeyboardInterrupt

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(3):
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", interrupted)
                try:
                    loop.run_in_executor(None, ran.append, 1)
                except KeyboardInterrupt:
                    ran.append("interrupted")
            gate = Gate()
            jobs = [loop.run_in_executor(None, gate, n) for n in range(limit() - 1)]
            await gate.wait_for_calls(limit() - 1)
            gate.opened.set()
            assert await asyncio.gather(*jobs) == list(range(limit() - 1))
        await loop.shutdown_default_executor()

    run(main())
    assert "interrupted" in ran


def test_threads_submit_once_a_tool_has_replaced_a_method(flavour, monkeypatch):
    """The first call changes ferroloop's pool, while the others begin."""
    original = concurrent.futures.ThreadPoolExecutor.submit
    interval = sys.getswitchinterval()

    def submit(self, function):
        return original(self, function)

    def use(pool):
        barrier.wait()
        jobs.append(pool.submit(int))

    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            jobs, barrier = [], threading.Barrier(4)
            with contextlib.closing(flavour.new_loop()) as loop:
                loop.run_until_complete(loop.run_in_executor(None, int))
                with monkeypatch.context() as patch:
                    patch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", submit)
                    arguments = [loop._default_executor]
                    threads = [threading.Thread(target=use, args=arguments) for _ in range(4)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                    assert [job.result(10) for job in jobs] == [0] * 4
                loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        sys.setswitchinterval(interval)


# ---------------------------------------------------------------- the interpreter's exit


@pytest.mark.mode("plain")
def test_exit_waits_for_running_jobs(flavour):
    status, out, errors = run_program(
        flavour,
        """
        loop = new_event_loop()

        def job(n):
            time.sleep(0.1)
            os.write(1, b"done %d\\n" % n)

        for n in range(3):
            loop.run_in_executor(None, job, n)
        loop.run_until_complete(asyncio.sleep(0.01))
        print("leaving", flush=True)
        """,
    )
    assert (status, out.split("\n")[0]) == (0, "leaving")
    assert sorted(out.split("\n")[1:4]) == ["done 0", "done 1", "done 2"]
    assert errors == ""


@pytest.mark.mode("plain")
def test_exit_with_a_full_queue_and_an_open_loop(flavour):
    status, out, errors = run_program(
        flavour,
        """
        loop = new_event_loop()
        count = []
        for n in range(500):
            loop.run_in_executor(None, count.append, n)
        import atexit
        atexit.register(lambda: print(len(count)))
        """,
    )
    assert (status, out, errors) == (0, "500\n", "")


@pytest.mark.mode("plain")
def test_submitting_during_exit(flavour):
    status, out, errors = run_program(
        flavour,
        """
        loop = new_event_loop()
        loop.run_until_complete(loop.run_in_executor(None, int))

        def late():
            threading.main_thread().join()
            time.sleep(0.2)
            try:
                loop.run_in_executor(None, int)
            except RuntimeError as error:
                print(error)

        threading.Thread(target=late).start()
        """,
    )
    assert (status, errors) == (0, "")
    # The threads of concurrent.futures mark their executor when they end.
    assert out in (
        "cannot schedule new futures after interpreter shutdown\n",
        "cannot schedule new futures after shutdown\n",
    )


@pytest.mark.mode("plain")
def test_exit_from_inside_the_loop_while_jobs_run(flavour):
    status, out, errors = run_program(
        flavour,
        """
        async def main():
            loop = asyncio.get_running_loop()
            for _ in range(4):
                loop.run_in_executor(None, time.sleep, 0.05)
            await asyncio.sleep(0.01)
            sys.exit(3)

        loop = new_event_loop()
        loop.run_until_complete(main())
        """,
    )
    assert status == 3
    assert "Traceback" not in errors


@pytest.mark.mode("plain")
def test_daemon_threads_at_exit(flavour):
    """A loop in a daemon thread: its workers are daemons too, and may be busy at exit."""
    status, out, errors = run_program(
        flavour,
        """
        started = threading.Event()

        def serve():
            loop = new_event_loop()

            async def main():
                while True:
                    await asyncio.gather(*[asyncio.to_thread(time.sleep, 0.001) for _ in range(8)])
                    started.set()

            loop.run_until_complete(main())

        threading.Thread(target=serve, daemon=True).start()
        started.wait()
        print("leaving")
        """,
    )
    assert (status, out) == (0, "leaving\n"), errors


# ---------------------------------------------------------------- forks

FORK = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)

    def in_child(check):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(20)
                status = check()
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.mark.mode("plain")
def test_a_new_loop_in_a_forks_child(flavour):
    status, out, errors = run_program(
        flavour,
        RUN
        + FORK
        + """
    def check():
        events = asyncio.events
        events._set_running_loop(None)
        loop = new_event_loop()
        result = loop.run_until_complete(loop.run_in_executor(None, lambda: 7))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        return result

    async def main():
        await asyncio.gather(*[asyncio.to_thread(time.sleep, 0.001) for _ in range(20)])
        assert in_child(check) == 7
        assert await asyncio.to_thread(lambda: 8) == 8
        # From a thread of the pool.
        assert await asyncio.to_thread(in_child, check) == 7
        assert await asyncio.to_thread(lambda: 9) == 9

    run(main())
    print("fine")
    """,
    )
    assert (status, out, errors) == (0, "fine\n", "")


@pytest.mark.mode("plain")
@pytest.mark.only("ferroloop")
def test_the_pool_of_the_parent_works_in_a_forks_child(flavour):
    """asyncio's pool would wait for threads that exist only in the parent."""
    status, out, errors = run_program(
        flavour,
        FORK
        + """
    loop = new_event_loop()
    gate = threading.Event()
    pool = []

    async def main():
        jobs = [loop.run_in_executor(None, gate.wait, 10) for _ in range(40)]
        await asyncio.sleep(0.01)
        pool.append(loop._default_executor)

        def check():
            executor = pool[0]
            assert executor._work_queue.qsize() == 0
            assert not executor._threads
            assert executor.submit(lambda: 7).result(10) == 7
            executor.shutdown()
            return 7

        assert in_child(check) == 7
        gate.set()
        assert await asyncio.gather(*jobs) == [True] * 40

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    print("fine")
    """,
    )
    assert (status, out, errors) == (0, "fine\n", "")


@pytest.mark.mode("plain")
def test_a_child_that_leaves_normally(flavour):
    status, out, errors = run_program(
        flavour,
        """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    loop = new_event_loop()
    loop.run_until_complete(loop.run_in_executor(None, int))
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """,
    )
    assert (status, out, errors) == (0, "", "")


# ---------------------------------------------------------------- to_thread


def test_to_thread_in_bulk(run):
    async def main():
        calls = [asyncio.to_thread(functools.partial(pow, n), 2) for n in range(300)]
        assert await asyncio.gather(*calls) == [n * n for n in range(300)]

    run(main())
