"""What reports of blocked loops say about the cause: computing, a call that blocks, waiting for the
GIL or for a processor. asyncio has nothing similar."""

import asyncio
import contextlib
import contextvars
import ctypes
import logging
import os
import re
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import threading
import time

import ferroloop
import pytest
from ferroloop import blocking

from ..support.programs import run_program

pytestmark = pytest.mark.only("ferroloop")
linux = pytest.mark.skipif(
    not os.access("/proc/self/syscall", os.R_OK), reason="the kernel does not tell"
)
WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

THRESHOLD = 0.1
LONG = 0.35

request_id = contextvars.ContextVar("request_id", default="none")


@pytest.fixture(autouse=True)
def expect_records(log):
    """Slow callbacks are logged to asyncio's logger."""
    yield
    log.take()


@contextlib.contextmanager
def records_of(name):
    """The records of a logger, and what `request_id` was when each was logged."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append((record, request_id.get()))
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield found
    finally:
        logger.propagate = before
        logger.removeHandler(handler)


def watched(loop, main):
    """The stalls reported while a coroutine runs, and their texts."""
    with records_of("ferroloop.watchdog") as found, ferroloop.watch(THRESHOLD, interval=0):

        async def and_wait():
            await main
            await asyncio.sleep(2 * THRESHOLD)  # meanwhile the end of the stall is noticed

        loop.run_until_complete(and_wait())
    return [(record.stall, record.getMessage()) for record, _ in found]


async def compute():
    end = time.thread_time() + LONG
    while time.thread_time() < end:
        pass


async def block():
    time.sleep(LONG)


async def wait_for_the_gil():
    """Another thread calls a C function, which keeps the GIL."""
    thread = threading.Thread(target=ctypes.PyDLL(None).usleep, args=[int(LONG * 1e6)])
    thread.start()
    time.sleep(0.01)  # releases the GIL, and can't get it back
    thread.join()


@linux
@pytest.mark.mode("plain")
@pytest.mark.parametrize(
    ("main", "cause"),
    [
        (compute, "computing"),
        (block, "blocked"),
        pytest.param(
            wait_for_the_gil,
            "waiting for the GIL",
            marks=pytest.mark.skipif(WITHOUT_GIL, reason="there is no GIL"),
        ),
    ],
    ids=["computing", "blocked", "GIL"],
)
def test_the_watchdog_tells_the_cause(loop, main, cause):
    reports = watched(loop, main())
    stall, text = reports[-1]
    assert stall.over
    assert stall.spent.total == stall.seconds
    if cause != "computing" and stall.spent.cause == "waiting for a processor":
        pytest.skip("the machine is too busy")
    if cause == "computing":
        # A busy machine adds waits for a processor.
        assert stall.spent.cpu > LONG / 2
        assert stall.spent.blocked < LONG / 2
    else:
        assert stall.spent.cause == cause, (stall, text)
        assert stall.spent.cpu < LONG / 2
    assert "CPU time" in text
    if cause == "blocked":
        assert stall.spent.system_call in ("clock_nanosleep", "pselect6", "select")
        assert text.count("\n") == 0, "one line for the end"
        (begun, shown), _ = reports
        assert f"\n  blocked in {begun.spent.system_call}, CPU time 0." in shown


@linux
@pytest.mark.mode("plain")
def test_the_watchdog_tells_a_wait_for_a_processor(loop):
    """The loop's thread shares one processor with busy processes."""

    async def main():
        allowed = os.sched_getaffinity(0)
        one = min(allowed)
        os.sched_setaffinity(0, {one})
        try:
            code = "print(flush=True)\nwhile True: pass"
            busy = [
                subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
                for _ in range(4)
            ]
            for process in busy:
                process.stdout.read(1)
            await asyncio.sleep(0)
            spent.append(time.thread_time())
            end = time.monotonic() + LONG
            while time.monotonic() < end:
                pass
            spent.append(time.thread_time())
        finally:
            os.sched_setaffinity(0, allowed)
            for process in busy:
                process.kill()
                process.wait()
                process.stdout.close()

    spent = []
    stall, text = watched(loop, main())[-1]
    if stall.spent.run_delay is None:
        pytest.skip("the kernel does not count waits")
    if spent[1] - spent[0] > LONG / 2:
        pytest.skip("the busy processes did not get their share")
    assert stall.spent.run_delay > LONG / 4, text
    assert "waiting for a processor 0." in text


def test_shares_of_the_time():
    spent = blocking.time_spent(1.0, (0.1, 0.2, 3, 1, "read"), sampled=True)
    assert spent == (1.0, 0.1, 0.2, pytest.approx(0.525), "read")
    assert spent.blocked == pytest.approx(0.175)
    assert spent.cause == "waiting for the GIL"
    # Readings that include a little more than the interval.
    spent = blocking.time_spent(0.1, (0.2, 0.1, 0, 0, None), sampled=True)
    assert spent == (0.1, 0.1, 0.0, 0.0, None)
    assert str(spent) == "computing, CPU time 0.100 s, waiting for a processor 0.000 s"
    spent = blocking.time_spent(1.0, (0.1, None, 0, 0, None), sampled=False)
    assert spent.gil is None
    assert str(spent) == "blocked or waiting for the GIL, CPU time 0.100 s"
    assert blocking.time_spent(1.0, None, sampled=False) is None


def slow(loop, callback, *args):
    """The record of a callback that took long."""
    loop.slow_callback_duration = 0.03
    loop.report_slow_callbacks()
    with records_of("asyncio") as found:
        loop.call_soon(callback, *args)
        loop.run_until_complete(asyncio.sleep(0))
    return [record for record, _ in found]


@linux
@pytest.mark.parametrize("computes", [True, False])
def test_slow_callbacks_tell_the_cause(loop, computes):
    def callback():
        end = time.thread_time() + 0.06
        while computes and time.thread_time() < end:
            pass
        if not computes:
            time.sleep(0.06)

    (record,) = slow(loop, callback)
    seconds, spent, call, context = record.slow_callback
    assert seconds >= 0.05
    assert (spent.total, call) == (seconds, None)
    assert context is not None
    assert spent.cpu >= 0.05 if computes else spent.cpu < 0.04
    assert spent.gil is None
    if spent.cause != "waiting for a processor":
        assert spent.cause == ("computing" if computes else "blocked or waiting for the GIL")
    text = record.getMessage()
    if loop.get_debug():  # exactly asyncio's
        assert re.fullmatch(r"Executing <Handle .*> took 0\.\d{3} seconds", text)
    else:
        assert re.fullmatch(r"Executing <Handle .*> took 0\.\d{3} seconds; \S.*, CPU .*", text)


def open_a_fifo(path):
    """Blocks until a thread opens the other end."""
    opener = threading.Timer(0.06, lambda: open(path, "w").close())
    opener.start()
    with open(path):
        pass
    opener.join()


def run_a_program():
    subprocess.run([sys.executable, "-S", "-c", "import time; time.sleep(0.05)"], check=True)


def take_long():
    """Raises no audit event."""
    end = time.monotonic() + 0.06
    while time.monotonic() < end:
        pass


def look_up_a_name():
    socket.getaddrinfo("127.0.0.1", 80)
    take_long()


def connect_to_a_database():
    sqlite3.connect(":memory:").close()
    take_long()


@pytest.mark.parametrize(
    ("event", "callback", "name"),
    [
        ("open", open_a_fifo, "open({fifo!r})"),
        ("subprocess.Popen", run_a_program, "subprocess.Popen({sys.executable!r})"),
        ("time.sleep", lambda: time.sleep(0.06), "time.sleep(0.06)"),
        ("socket.getaddrinfo", look_up_a_name, "socket.getaddrinfo('127.0.0.1', 80)"),
        ("sqlite3.connect", connect_to_a_database, "sqlite3.connect(':memory:')"),
    ],
)
def test_the_call_is_named(loop, tmp_path, event, callback, name):
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    args = (fifo,) if callback is open_a_fifo else ()
    name = name.format(fifo=fifo, sys=sys)
    if event == "time.sleep" and sys.version_info < (3, 13):
        pytest.skip("it raises no audit event")
    with ferroloop.name_blocking_calls():
        (record,) = slow(loop, callback, *args)
    call = record.slow_callback.call
    assert (call.event, call.call) == (event, name)
    assert call.function.endswith(callback.__name__)
    assert call.file == __file__
    assert 0.03 < call.seconds <= record.slow_callback.seconds
    assert not call.allowed
    shown = f"{name} in {call.function} ({__file__}:{call.line}) took up to 0."
    assert loop.get_debug() or shown in record.getMessage()
    # Not in effect any more: the next report has no name.
    (record,) = slow(loop, callback, *args)
    assert record.slow_callback.call is None


def test_the_watchdog_names_the_call(loop, tmp_path):
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)

    async def main():
        opener = threading.Timer(LONG, lambda: open(fifo, "w").close())
        opener.start()
        with open(fifo):
            pass
        opener.join()

    with ferroloop.name_blocking_calls():
        (begun, text), (ended, end) = watched(loop, main())
    assert begun.call.event == ended.call.event == "open"
    assert begun.call.seconds < ended.call.seconds
    assert f"\n  open({fifo!r}) in " in text
    assert f"; open({fifo!r}) in " in end


@pytest.mark.parametrize("allow", ["open", "test_blocking.py:open_a_fifo"])
def test_allowed_calls_are_not_reported(loop, tmp_path, allow):
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    with ferroloop.name_blocking_calls(allow=[allow, "import"]):
        reported = slow(loop, open_a_fifo, fifo)
        # Debug mode reports what asyncio reports.
        assert len(reported) == int(loop.get_debug())
        assert [record.slow_callback.call.allowed for record in reported] == [True] * len(reported)
        (record,) = slow(loop, lambda: time.sleep(0.06))
        assert record.slow_callback.call is None or not record.slow_callback.call.allowed

        async def main():
            open_a_fifo(fifo)

        with records_of("ferroloop.watchdog") as found, ferroloop.watch(0.04, interval=0):
            loop.run_until_complete(main())
            loop.run_until_complete(asyncio.sleep(0.1))
        assert [record.getMessage() for record, _ in found] == []


def test_reports_have_the_context_of_the_task(loop):
    async def handler():
        request_id.set("17")
        time.sleep(LONG)

    async def main():
        await asyncio.create_task(handler())
        await asyncio.sleep(2 * THRESHOLD)

    loop.slow_callback_duration = THRESHOLD
    loop.report_slow_callbacks()
    with (
        records_of("ferroloop.watchdog") as stalls,
        records_of("asyncio") as callbacks,
        ferroloop.watch(THRESHOLD, interval=0),
    ):
        loop.run_until_complete(main())
    assert [seen for _, seen in stalls] == ["17", "17"]
    assert [record.stall.context[request_id] for record, _ in stalls] == ["17", "17"]
    ((record, seen),) = callbacks
    assert record.slow_callback.context[request_id] == "17"
    assert seen == ("none" if loop.get_debug() else "17")
    assert request_id.get() == "none"


def test_a_watch_begun_by_another_thread(loop):
    def watch():
        with ferroloop.watch(THRESHOLD, interval=0, loop=loop):
            started.set()
            done.wait(10)

    async def main():
        thread = threading.Thread(target=watch)
        thread.start()
        started.wait(10)
        await asyncio.sleep(0)
        time.sleep(LONG)
        await asyncio.sleep(2 * THRESHOLD)
        done.set()
        thread.join()

    started, done = threading.Event(), threading.Event()
    with records_of("ferroloop.watchdog") as found:
        loop.run_until_complete(main())
    stalls = [record.stall for record, _ in found]
    assert [stall.over for stall in stalls] == [False, True]
    if sys.platform == "linux":
        assert stalls[1].spent.cpu < LONG / 2


def test_misuse():
    with pytest.raises(ValueError, match="'read' is neither a known event nor FILE:FUNCTION"):
        ferroloop.name_blocking_calls(allow=["import", "read"])
    with pytest.raises(TypeError, match="not a string"):
        ferroloop.name_blocking_calls(allow="open")
    naming = ferroloop.name_blocking_calls()
    naming.stop()
    naming.stop()


def test_enabled_by_the_environment(flavour, monkeypatch, tmp_path):
    monkeypatch.setenv("FERROLOOP_BLOCKING_CALLS", "1")
    monkeypatch.setenv("FERROLOOP_SLOW_CALLBACKS", "1")
    source = """
    import logging, subprocess
    logging.basicConfig(format="%(message)s %(slow_callback)s")
    async def main():
        subprocess.run(["sleep", "0.15"])
    loop = new_event_loop()
    loop.slow_callback_duration = 0.1
    loop.run_until_complete(main())
    """
    status, _, errors = run_program(flavour, source)
    assert status == 0, errors
    assert "BlockingCall(event='subprocess.Popen', call=\"subprocess.Popen('sleep')\"" in errors
