"""call_soon_threadsafe under load: nothing is lost or reordered, at any point of a loop's life
cycle; and there are as few wake-ups as the design promises."""

import asyncio
import contextvars
import faulthandler
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from ..support.programs import run_program

VAR = contextvars.ContextVar("VAR", default="default")


def test_order_with_call_soon(loop):
    """Both use one queue, from any thread."""
    seen = []
    for number in range(10):
        schedule = loop.call_soon if number % 2 else loop.call_soon_threadsafe
        schedule(seen.append, number)
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(seen.append, 10))
    thread.start()
    thread.join()
    loop.call_soon(seen.append, 11)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == list(range(12))


def test_returns_a_handle_that_can_be_cancelled(loop, flavour):
    seen = []
    handles = []

    def submit():
        handles.append(loop.call_soon_threadsafe(seen.append, "cancelled"))
        handles.append(loop.call_soon_threadsafe(seen.append, "kept"))

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join()
    assert all(isinstance(handle, asyncio.Handle) for handle in handles)
    handles[0].cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["kept"]


def test_context_is_the_callers(loop):
    seen = []
    given = contextvars.copy_context()
    given.run(VAR.set, "given")

    def submit():
        VAR.set("thread")
        loop.call_soon_threadsafe(lambda: seen.append(VAR.get()))
        loop.call_soon_threadsafe(lambda: seen.append(VAR.get()), context=given)
        VAR.set("later")

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["thread", "given"]


def test_wakes_a_sleeping_loop(run):
    async def main():
        loop = asyncio.get_running_loop()
        for delay in (0, 0.001, 0.02):
            future = loop.create_future()

            def submit(delay=delay, future=future):
                time.sleep(delay)
                loop.call_soon_threadsafe(future.set_result, time.monotonic())

            thread = threading.Thread(target=submit)
            thread.start()
            sent = await future
            assert time.monotonic() - sent < 2
            thread.join()  # It may still be in its call.

    run(main())


def test_wakes_a_loop_with_a_python_clock(flavour):
    """While time() runs, other threads run too, just before the loop goes to sleep."""
    loop = flavour.new_loop()
    clock = loop.time
    armed = threading.Event()
    called = threading.Event()

    def slow_time():
        if armed.is_set():
            armed.clear()
            called.set()
            time.sleep(0.02)
        return clock()

    loop.time = slow_time
    try:
        loop.call_later(30, loop.stop)

        def submit():
            assert called.wait(5)
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=submit)
        thread.start()
        loop.call_soon(armed.set)
        started = time.monotonic()
        loop.run_forever()
        thread.join()
        assert time.monotonic() - started < 10
    finally:
        del loop.time
        loop.close()


def test_closed_loop_refuses(loop):
    loop.close()
    errors = []

    def submit():
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join()
    assert errors == ["Event loop is closed"]


def test_close_while_threads_schedule(flavour):
    for _ in range(10):
        loop = flavour.new_loop()
        go = threading.Event()
        ends = []

        def submit(loop=loop, go=go, ends=ends):
            count = 0
            go.wait()
            try:
                while True:
                    loop.call_soon_threadsafe(int)
                    count += 1
            except RuntimeError as error:
                ends.append((str(error), count))

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        go.set()
        loop.run_until_complete(asyncio.sleep(0.005))
        loop.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert [text for text, _ in ends] == ["Event loop is closed"] * 4


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_a_dropped_loop_that_has_not_taken_a_callback(flavour):
    """Without a GIL the callbacks of other threads wait in a queue of their own."""
    loop = flavour.new_loop()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.time,))
    thread.start()
    thread.join()
    dead = weakref.ref(loop)
    del loop, thread
    gc.collect()
    assert dead() is None


def test_from_a_signal_handler(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        before = signal.signal(
            signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(future.set_result, "signal")
        )
        try:
            timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            assert await asyncio.wait_for(future, 5) == "signal"
            timer.join()
        finally:
            signal.signal(signal.SIGUSR1, before)

    run(main())


@pytest.mark.mode("plain")
def test_signals_at_random_moments(run):
    """Handlers that schedule run between any two instructions of the main thread."""

    async def main():
        loop = asyncio.get_running_loop()
        received = scheduled = 0

        def callback():
            nonlocal received
            received += 1

        def handler(signum, frame):
            nonlocal scheduled
            scheduled += 1
            loop.call_soon_threadsafe(callback)

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0003)
        try:
            end = loop.time() + 0.5
            while loop.time() < end:
                await asyncio.gather(*[asyncio.sleep(0) for _ in range(20)])
                await asyncio.sleep(0.0004)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert received == scheduled
        assert scheduled > 20

    run(main())


def test_from_finalizers(run):
    async def main():
        loop = asyncio.get_running_loop()
        received = []

        class Thing:
            def __del__(self):
                loop.call_soon_threadsafe(received.append, 1)

        async def lose():
            for _ in range(100):
                thing = Thing()
                thing.itself = thing  # left to the garbage collector, which may run at any time
                await asyncio.sleep(0)

        await asyncio.gather(*[lose() for _ in range(10)])
        await asyncio.to_thread(lambda: [Thing() for _ in range(10)] and None)
        import gc

        gc.collect()
        await asyncio.sleep(0)
        assert len(received) == 1010

    run(main())


# ---------------------------------------------------------------- stress


@pytest.mark.mode("plain")
@pytest.mark.parametrize("threads", [1, 8, 64])
def test_stress_callbacks(run, flavour, threads):
    """Each thread's callbacks arrive complete and in its order."""
    total = 50_000 if flavour.is_asyncio or threads < 64 else 1_000_000

    async def main():
        loop = asyncio.get_running_loop()
        each = total // threads
        arrived = [[] for _ in range(threads)]
        left = threads
        finished = loop.create_future()

        def end():
            nonlocal left
            left -= 1
            if not left:
                finished.set_result(None)

        def produce(number):
            append = arrived[number].append
            randomness = random.Random(number)
            for n in range(each):
                loop.call_soon_threadsafe(append, n)
                if randomness.random() < 0.0005:
                    time.sleep(0.0001)  # so that the loop occasionally goes to sleep
            loop.call_soon_threadsafe(end)

        producers = [threading.Thread(target=produce, args=(n,)) for n in range(threads)]
        for producer in producers:
            producer.start()
        await finished
        for producer in producers:
            producer.join()
        for numbers in arrived:
            assert numbers == list(range(each))

    run(main(), seconds=55)


@pytest.mark.mode("plain")
def test_stress_results_and_callbacks(run):
    """64 tasks with blocking calls and 64 threads with callbacks, all concurrently."""

    async def main():
        loop = asyncio.get_running_loop()
        arrived = {n: [] for n in range(64)}
        randomness = random.Random(1)

        def produce(number):
            for n in range(300):
                loop.call_soon_threadsafe(arrived[number].append, n)

        async def consume(number):
            for n in range(200):
                assert await loop.run_in_executor(None, lambda n=n: (number, n)) == (number, n)
                if randomness.random() < 0.05:
                    job = loop.run_in_executor(None, int)
                    await asyncio.sleep(0)
                    job.cancel()

        producers = [threading.Thread(target=produce, args=(n,)) for n in range(64)]
        for producer in producers:
            producer.start()
        await asyncio.gather(*[consume(n) for n in range(64)])
        for producer in producers:
            await asyncio.to_thread(producer.join)
        await asyncio.sleep(0)
        assert arrived == {n: list(range(300)) for n in range(64)}

    run(main(), seconds=55)


@pytest.mark.mode("plain")
def test_ping_pong_between_loops(flavour):
    """Two loops in two threads wake each other; each sleeps between messages."""
    rounds = 3000
    loops = [flavour.new_loop(), flavour.new_loop()]
    counts = [0, 0]

    def receive(me):
        counts[me] += 1
        if counts[me] < rounds:
            loops[1 - me].call_soon_threadsafe(receive, 1 - me)
        else:
            loops[1 - me].call_soon_threadsafe(loops[1 - me].stop)
            loops[me].stop()

    thread = threading.Thread(target=loops[1].run_forever)
    thread.start()
    loops[0].call_soon(receive, 0)
    faulthandler.dump_traceback_later(30, exit=False)
    try:
        loops[0].run_forever()
        thread.join(20)
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert not thread.is_alive()
    assert counts[0] == rounds
    for loop in loops:
        loop.close()


@pytest.mark.mode("plain")
@pytest.mark.only("ferroloop")
def test_no_system_call_while_the_loop_is_awake(flavour):
    """The loop's thread schedules callbacks itself: a wake-up would be a write to the eventfd."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    program = f"""if True:
        import sys; sys.path[:] = {sys.path!r}
        import ferroloop, os, threading
        loop = ferroloop.new_event_loop()
        def busy():
            os.write(2, b"begin\\n")
            def post():
                for _ in range(1000):
                    loop.call_soon_threadsafe(int)
            thread = threading.Thread(target=post)
            thread.start()
            thread.join()
            os.write(2, b"end\\n")
            loop.call_soon(loop.stop)
        loop.call_soon(busy)
        loop.run_forever()
        loop.close()
    """
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=write", sys.executable, "-c", program],
        capture_output=True,
        text=True,
    )
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("strace is not allowed here")
    traced = done.stderr[done.stderr.index('"begin') : done.stderr.rindex('"end')]
    assert "write(" not in traced.replace("write(2", "", 2), traced


@pytest.mark.mode("plain")
def test_scheduling_during_exit(flavour):
    """Daemon threads schedule callbacks until the interpreter exits."""
    status, out, errors = run_program(
        flavour,
        """
        loop = new_event_loop()

        def post():
            while True:
                loop.call_soon_threadsafe(int)

        for _ in range(4):
            threading.Thread(target=post, daemon=True).start()
        loop.run_until_complete(asyncio.sleep(0.05))
        print("leaving")
        """,
    )
    assert (status, out) == (0, "leaving\n"), errors


@pytest.mark.skipif(sys.version_info < (3, 14), reason="handles have no lock before 3.14")
@pytest.mark.parametrize("method", ["cancel", "cancelled"])
def test_cancelling_in_another_thread_waits_for_the_callback(loop, method):
    started, finished = threading.Event(), threading.Event()
    answers = []

    def callback():
        started.set()
        time.sleep(0.2)
        finished.set()

    def other_thread():
        handle = loop.call_soon_threadsafe(callback)
        assert started.wait(10)
        answers.append(getattr(handle, method)())
        answers.append(finished.is_set())
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other_thread)
    thread.start()
    loop.run_forever()
    thread.join()
    assert answers == [None if method == "cancel" else False, True]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="handles have no lock before 3.14")
def test_a_callback_cancels_itself_without_waiting(loop):
    answers = []

    def callback():
        handle.cancel()
        answers.append(handle.cancelled())
        loop.stop()

    handle = loop.call_soon_threadsafe(callback)
    loop.run_forever()
    assert answers == [True]
    # It has finished: other threads need not wait.
    thread = threading.Thread(target=lambda: answers.append(handle.cancelled()))
    thread.start()
    thread.join(10)
    assert answers == [True, True]
