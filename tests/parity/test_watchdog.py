"""`ferroloop.watch()`: reports about blocked loops. asyncio has nothing similar."""

import asyncio
import ctypes
import logging
import os
import re
import sys
import sysconfig
import threading
import time

import pytest

from ..support.programs import run_program

pytestmark = pytest.mark.only("ferroloop")

WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

THRESHOLD = 0.1
BLOCKED = 0.3


@pytest.fixture
def stalls(flavour):
    """The stalls that the watchdog reports while it watches every loop."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.stall)
    logger = logging.getLogger("ferroloop.watchdog")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with flavour.module.watch(THRESHOLD, interval=0):
            yield found
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def block_by_sleep():
    time.sleep(BLOCKED)


def block_in_python():
    end = time.monotonic() + BLOCKED
    while time.monotonic() < end:
        pass


def block_with_gil():
    # PyDLL keeps the GIL during the call.
    ctypes.PyDLL(None).usleep(int(BLOCKED * 1e6))


def block_by_regex():
    length = 16
    started = time.monotonic()
    while time.monotonic() - started < BLOCKED:  # each takes twice as long as the one before
        started = time.monotonic()
        re.match(r"(a+)+$", "a" * length + "b")
        length += 1


@pytest.mark.parametrize(
    "block",
    [
        block_by_sleep,
        block_in_python,
        pytest.param(
            block_with_gil,
            marks=pytest.mark.skipif(
                WITHOUT_GIL, reason="nothing waits for the GIL, which makes the thread stop there"
            ),
        ),
    ],
    ids=lambda block: block.__name__,
)
def test_the_stack_the_task_and_the_time(loop, stalls, block):
    async def culprit():
        block()

    async def parent():
        await asyncio.sleep(0.02)
        started = time.monotonic()
        child = asyncio.create_task(culprit(), name="the culprit")
        await asyncio.gather(child)
        took.append(time.monotonic() - started)
        await asyncio.sleep(2 * THRESHOLD)  # meanwhile the end of the stall is noticed

    took = []
    task = loop.create_task(parent(), name="the parent")
    loop.run_until_complete(task)
    first, second = stalls
    assert (first.over, second.over) == (False, True)
    assert THRESHOLD <= first.seconds <= second.seconds
    assert BLOCKED * 0.8 <= second.seconds <= took[0] + THRESHOLD
    assert (first.task, second.task) == ("the culprit", "the culprit")
    assert first.coroutine.endswith("culprit")
    assert first.awaited_by == ("the parent",)
    functions = [frame.name for frame in first.stack]
    assert functions[:2] == ["culprit", block.__name__]
    assert first.stack[0].line == "block()"
    assert first.suppressed == 0


def test_a_long_regex(loop, stalls):
    """The match holds the GIL: it is reported when it is over, but still with its stack."""

    async def main():
        block_by_regex()
        await asyncio.sleep(2 * THRESHOLD)

    loop.run_until_complete(main())
    assert [stall.over for stall in stalls] == [False, True]
    assert "block_by_regex" in [frame.name for frame in stalls[0].stack]
    assert stalls[1].seconds >= BLOCKED * 0.8


def test_plain_callbacks(loop, stalls):
    loop.call_soon(block_by_sleep)
    loop.call_later(BLOCKED + 2 * THRESHOLD, loop.stop)
    loop.run_forever()
    assert [frame.name for frame in stalls[0].stack][-1] == "block_by_sleep"
    assert stalls[0].task is None
    assert [stall.over for stall in stalls] == [False, True]


@pytest.mark.mode("plain")  # in debug mode Python code runs in between
def test_c_code_alone_is_reported_afterwards(loop, stalls):
    """No bytecode runs between the call and the loop's sleep: the GIL is not released."""
    loop.call_soon(ctypes.PyDLL(None).usleep, int(BLOCKED * 1e6))
    loop.call_later(BLOCKED + 2 * THRESHOLD, loop.stop)
    loop.run_forever()
    # Without a GIL the watchdog can report the stall before it is over.
    *before, stall = stalls
    assert [each.over for each in before] == ([False] if WITHOUT_GIL and before else [])
    assert stall.over
    assert stall.seconds >= BLOCKED * 0.8
    assert stall.stack == ()


def test_many_callbacks_of_one_turn(loop, stalls):
    for _ in range(40):
        loop.call_soon(time.sleep, BLOCKED / 40)
    loop.call_later(BLOCKED + 2 * THRESHOLD, loop.stop)
    loop.run_forever()
    assert [stall.over for stall in stalls] == [False, True]


def test_a_busy_loop_and_an_idle_one_are_fine(loop, stalls):
    async def main():
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            await asyncio.sleep(0)
        await asyncio.sleep(0.3)
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await reader.read()
            writer.close()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())
    # A machine that does not schedule the process for that long looks the same: reports
    # shorter than that are ignored.
    assert [stall for stall in stalls if stall.seconds > 5 * THRESHOLD] == []
    assert len(stalls) <= 2


def test_reports_are_rare(flavour, loop):
    texts = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append((record.getMessage(), record.stall))
    logger = logging.getLogger("ferroloop.watchdog")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with flavour.module.watch(0.02, interval=0.5):
            started = time.monotonic()
            while time.monotonic() - started < 1.3:
                loop.call_soon(lambda: time.sleep(0.06))
                loop.run_until_complete(asyncio.sleep(0.02))
            loop.run_until_complete(asyncio.sleep(0.1))
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
    begun = [stall for _, stall in texts if stall.stack]
    assert 2 <= len(begun) <= 4
    assert begun[1].suppressed >= 2
    assert f"{begun[1].suppressed} more since" in next(t for t, s in texts if s is begun[1])


def test_one_loop_alone(flavour, stalls):
    first, second = flavour.new_loop(), flavour.new_loop()
    stalls_of_first = []
    handler = logging.Handler()
    handler.emit = lambda record: stalls_of_first.append(record.stall)
    with flavour.module.watch(THRESHOLD, interval=0, loop=first) as watch:
        assert watch._thread.name == "ferroloop-watchdog"
        second.call_soon(time.sleep, 2 * THRESHOLD)
        second.run_until_complete(asyncio.sleep(2 * THRESHOLD))
    # Only the watch of all loops has reported it.
    assert [stall.over for stall in stalls] == [False, True]
    first.close()
    second.close()


def test_stop_and_misuse(flavour):
    watch = flavour.module.watch()
    thread = watch._thread
    assert thread in threading.enumerate()
    watch.stop()
    watch.stop()
    assert thread not in threading.enumerate()
    for threshold in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            flavour.module.watch(threshold)
    with pytest.raises(TypeError):
        flavour.module.watch("soon")


def test_a_dropped_watch_ends(flavour):
    watch = flavour.module.watch()
    thread = watch._thread
    del watch
    thread.join(10)
    assert not thread.is_alive()


def test_loops_of_other_threads(flavour, stalls):
    def run():
        loop = flavour.new_loop()
        loop.call_soon(block_by_sleep)
        loop.run_until_complete(asyncio.sleep(0.3))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [frame.name for frame in stalls[0].stack][-1] == "block_by_sleep"


def test_enabled_by_the_environment(flavour, monkeypatch):
    monkeypatch.setenv("FERROLOOP_WATCH", "0.05")
    source = """
    import logging
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    async def main():
        time.sleep(0.3)
        await asyncio.sleep(0.1)
    loop = new_event_loop()
    loop.run_until_complete(main())
    # Left open and watched: the interpreter must still exit.
    """
    status, _, errors = run_program(flavour, source)
    assert status == 0
    lines = errors.splitlines()
    assert "WARNING ferroloop.watchdog: <EventLoop" in lines[0]
    assert "has not turned for 0." in lines[0]
    assert ", in main" in errors
    assert "turns again" in errors


def test_threads_that_make_the_first_loops_start_one_watch(flavour, monkeypatch):
    monkeypatch.setenv("FERROLOOP_WATCH", "60")
    source = """
    sys.setswitchinterval(1e-6)
    barrier = threading.Barrier(8)
    def make():
        barrier.wait()
        new_event_loop().close()
    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sorted(thread.name for thread in threading.enumerate()))
    """
    expected = "['MainThread', 'ferroloop-watchdog']\n"
    for _ in range(5):
        assert run_program(flavour, source) == (0, expected, "")


def test_a_wrong_threshold_in_the_environment(flavour, monkeypatch):
    monkeypatch.setenv("FERROLOOP_WATCH", "soon")
    status, _, errors = run_program(flavour, "new_event_loop()")
    assert status == 1
    assert "FERROLOOP_WATCH must be a number of seconds, got 'soon'" in errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_not_watched_by_its_parent(flavour):
    source = """
    import ferroloop, logging
    logging.basicConfig(format="%(message)s")
    watch = ferroloop.watch(0.05)
    if os.fork() == 0:
        loop = new_event_loop()
        loop.call_soon(time.sleep, 0.2)
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()
        watch.stop()
        with ferroloop.watch(0.05):
            loop = new_event_loop()
            loop.call_soon(time.sleep, 0.2)
            loop.run_until_complete(asyncio.sleep(0.1))
            loop.close()
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
    watch.stop()
    """
    status, out, errors = run_program(
        flavour, source, *(["-W", "ignore"] * (sys.version_info >= (3, 12)))
    )
    assert (status, out) == (0, "7\n"), errors
    assert errors.count("has not turned") == 1
