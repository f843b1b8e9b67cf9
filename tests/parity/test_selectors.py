"""`EventLoop(selector)`: the loop waits with a selector that the program supplies."""

import asyncio
import contextlib
import selectors
import socket
import sys
import threading
import time

import pytest


def loop_class(flavour):
    return asyncio.SelectorEventLoop if flavour.is_asyncio else flavour.module.EventLoop


@contextlib.contextmanager
def running(flavour, *arguments, **keywords):
    loop = loop_class(flavour)(*arguments, **keywords)
    loop.set_debug(flavour.debug)
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class Counting(selectors.DefaultSelector):
    """Records the timeouts it is called with."""

    def __init__(self):
        super().__init__()
        self.timeouts = []

    def select(self, timeout=None):
        self.timeouts.append(timeout)
        return super().select(timeout)


STOCK = [
    getattr(selectors, name)
    for name in ("DefaultSelector", "SelectSelector", "PollSelector", "EpollSelector")
    if hasattr(selectors, name)
]


@pytest.mark.parametrize("make", [lambda: None, *STOCK])
def test_a_selector_is_used_and_closed_with_the_loop(flavour, make):
    selector = make()
    with running(flavour, selector) as loop:
        assert loop.run_until_complete(asyncio.sleep(0.001, 1)) == 1
    if selector is not None:
        assert selector.get_map() is None
    with running(flavour, selector=make()) as loop:
        assert loop.run_until_complete(asyncio.sleep(0, 2)) == 2


def test_a_subclass_passes_the_selector_on(flavour):
    class Mine(loop_class(flavour)):
        def __init__(self, *, selector=None):
            super().__init__(selector=selector)

    selector = Counting()
    for given in (None, selector):
        loop = Mine(selector=given)
        assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1
        loop.close()
    assert selector.timeouts


def test_more_arguments_are_refused(flavour):
    loop = None
    with pytest.raises(TypeError, match="__init__"), contextlib.ExitStack() as stack:
        stack.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        sys.unraisablehook = lambda _: None  # reports of uninitialised loops
        loop = loop_class(flavour)(None, None)
    assert loop is None


def test_the_programs_selector_does_the_waiting(flavour):
    selector = Counting()
    with running(flavour, selector) as loop:
        assert loop._selector is selector

        async def main():
            started = time.monotonic()
            await asyncio.sleep(0.05)
            assert time.monotonic() - started >= 0.05
            return max(timeout for timeout in selector.timeouts if timeout is not None)

        assert 0.02 < loop.run_until_complete(main()) <= 0.06


def test_everything_that_ends_a_sleep(flavour):
    """Other threads, descriptors, and the end of a call in a thread, with no timer due soon."""

    async def main():
        loop = asyncio.get_running_loop()
        called = loop.create_future()
        timer = threading.Timer(0.05, loop.call_soon_threadsafe, (called.set_result, "called"))
        timer.start()
        assert await called == "called"
        timer.join()
        assert await asyncio.to_thread(lambda: time.sleep(0.05) or "returned") == "returned"

        async def answer(reader, writer):
            writer.write(await reader.readexactly(5))
            await asyncio.sleep(0.01)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            ready = loop.create_future()
            loop.add_reader(one, ready.set_result, "ready")
            loop.call_later(0.01, other.send, b"x")
            assert await ready == "ready"
            loop.remove_reader(one)

    selector = Counting()
    with running(flavour, selector) as loop:
        loop.run_until_complete(asyncio.wait_for(main(), 10))
    assert selector.timeouts


def test_virtual_time_by_a_selector(flavour):
    """A selector that advances the clock instead of waiting, as in testing libraries."""

    class Virtual(selectors.SelectSelector):
        now = 0.0

        def select(self, timeout=None):
            self.now += timeout or 0
            return super().select(0)

    class Loop(loop_class(flavour)):
        def time(self):
            return selector.now

    selector = Virtual()
    loop = Loop(selector)

    async def main():
        await asyncio.sleep(3600)
        return loop.time()

    started = time.monotonic()
    assert loop.run_until_complete(main()) >= 3600
    assert time.monotonic() - started < 60
    loop.close()


def test_selecting_inside_a_callback(flavour):
    """Like nest_asyncio: `_process_events(_selector.select())`."""
    selector = Counting()
    with running(flavour, selector) as loop:
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            seen = []

            def read():
                seen.append(one)
                loop.remove_reader(one)

            def turn():
                other.send(b"x")
                before = len(loop._ready)
                loop._process_events(loop._selector.select(1))
                assert len(loop._ready) == before + 1

            loop.add_reader(one, read)
            loop.call_soon(turn)
            loop.run_until_complete(asyncio.sleep(0.01))
            assert seen == [one]


def test_a_replaced_default_selector_is_used(flavour, monkeypatch):
    """gevent installs its own, which lets greenlets run while the loop waits."""
    monkeypatch.setattr(selectors, "DefaultSelector", Counting)
    with running(flavour) as loop:
        assert type(loop._selector) is Counting
        assert loop.run_until_complete(asyncio.sleep(0.01, 1)) == 1
        assert loop._selector.timeouts


def test_replaced_threads_run_executor_calls(flavour, monkeypatch):
    """For programs that replace threads, as gevent does."""
    name = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
    start = getattr(threading, name)
    started = []

    def note(*arguments, **keywords):
        started.append(arguments)
        return start(*arguments, **keywords)

    monkeypatch.setattr(threading, name, note)
    with running(flavour) as loop:
        found = loop.run_until_complete(asyncio.wait_for(main_of_thread(), 10))
    assert found == 4
    assert started


async def main_of_thread():
    return await asyncio.to_thread(int, "4")
