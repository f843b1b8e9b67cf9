"""`loop.busy_poll`: polling without sleeping, which has no counterpart in asyncio."""

import asyncio
import os
import signal
import socket
import threading
import time

import pytest

pytestmark = pytest.mark.only("ferroloop")


@pytest.fixture
def busy(loop):
    loop.busy_poll = 0.5
    return loop


def test_automatic_by_default(loop):
    assert loop.busy_poll is None
    for setting in (1, 0, 0.5, None):
        loop.busy_poll = setting
        assert loop.busy_poll == setting


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan"), float("inf")])
def test_bad_values(loop, bad):
    with pytest.raises(ValueError, match="busy_poll must be from 0 to 1 seconds"):
        loop.busy_poll = bad
    with pytest.raises(TypeError):
        loop.busy_poll = "x"
    assert loop.busy_poll is None


def test_timers_fire_neither_early_nor_a_whole_spin_late(busy):
    async def main():
        for delay in (0.0001, 0.003, 0.05):
            started = time.monotonic()
            await asyncio.sleep(delay)
            elapsed = time.monotonic() - started
            assert delay <= elapsed < 0.4, (delay, elapsed)

    busy.run_until_complete(main())


def test_a_sleep_longer_than_the_spin(busy):
    busy.busy_poll = 0.01

    async def main():
        started = time.monotonic()
        used = time.process_time()
        await asyncio.sleep(0.3)
        assert time.monotonic() - started >= 0.3
        # It has slept most of the time.
        assert time.process_time() - used < 0.2

    busy.run_until_complete(main())


def test_descriptors_and_other_threads_end_the_spin(busy):
    async def main():
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            threading.Timer(0.02, right.send, (b"x",)).start()
            started = time.monotonic()
            assert await busy.sock_recv(left, 1) == b"x"
            future = busy.create_future()
            threading.Timer(0.02, busy.call_soon_threadsafe, (future.set_result, "done")).start()
            assert await future == "done"
            assert time.monotonic() - started < 0.4
        while threading.active_count() > 1:
            await asyncio.sleep(0.001)

    busy.run_until_complete(main())


def test_signals_are_seen(busy):
    async def main():
        seen = busy.create_future()
        busy.add_signal_handler(signal.SIGUSR1, seen.set_result, "signal")
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        started = time.monotonic()
        assert await seen == "signal"
        assert time.monotonic() - started < 0.4
        while threading.active_count() > 1:
            await asyncio.sleep(0.001)

    busy.run_until_complete(main())


def test_python_signal_handlers_run_before_the_sleep(busy):
    busy.busy_poll = 0.05
    # The program's own wake-up descriptor: the loop does not see the signal.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    with reader, writer:
        stopped = []

        def stop(number, frame):
            stopped.append(number)
            busy.stop()

        before = signal.signal(signal.SIGUSR1, stop)
        previous = signal.set_wakeup_fd(writer.fileno())
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
        try:
            timer.start()
            busy.run_forever()
        finally:
            timer.join()
            signal.set_wakeup_fd(previous)
            signal.signal(signal.SIGUSR1, before)
        assert stopped == [signal.SIGUSR1]


@pytest.mark.parametrize("setting", [None, 0.0, 0.0001])
def test_a_peer_that_answers_at_once_then_late_then_at_once(loop, setting):
    loop.busy_poll = setting

    def answer(peer):
        for number in range(3000):
            if (data := peer.recv(100)) == b"":
                break
            if 1000 <= number < 1100:
                time.sleep(0.0003)
            peer.sendall(data)

    async def main():
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            thread = threading.Thread(target=answer, args=(right,))
            thread.start()
            ticks = 0

            def tick():
                nonlocal ticks
                ticks += 1
                timers[0] = loop.call_later(0.001, tick)

            timers = [loop.call_later(0.001, tick)]
            for number in range(3000):
                await loop.sock_sendall(left, b"%d" % number)
                assert await loop.sock_recv(left, 100) == b"%d" % number
            timers[0].cancel()
            await loop.run_in_executor(None, thread.join)
            # The late replies alone take 30 ms.
            assert ticks >= 5

    loop.run_until_complete(main())


@pytest.mark.parametrize(("setting", "polls_a_sleep"), [(None, 1), (0.0, 1), (0.0001, 2)])
def test_a_loop_with_long_waits_does_not_spin(loop, setting, polls_a_sleep):
    loop.busy_poll = setting

    async def main():
        before = loop.metrics().polls
        for _ in range(200):
            await asyncio.sleep(0.002)
        polls = loop.metrics().polls - before
        # A signal or similar may end a sleep early.
        assert abs(polls - 200 * polls_a_sleep) <= 20

    loop.run_until_complete(main())
