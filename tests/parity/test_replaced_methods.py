"""Methods of asyncio's classes, and of those behind `run_in_executor()`, that tools replace.

The replacement is called as asyncio would call it, whether it was installed before the loop was
created or later.
"""

import asyncio
import concurrent.futures
import functools
import os
import socket
import threading
from asyncio import base_events, events, selector_events, unix_events
from concurrent.futures import thread

import pytest

from ..support.certificates import HOST, client_context, server_context
from ..support.programs import run_program

HOOKS = [
    (base_events.BaseEventLoop, "call_soon"),
    (base_events.BaseEventLoop, "call_later"),
    (base_events.BaseEventLoop, "call_at"),
    (base_events.BaseEventLoop, "call_soon_threadsafe"),
    (base_events.BaseEventLoop, "_call_soon"),
    (base_events.BaseEventLoop, "create_future"),
    (base_events.BaseEventLoop, "create_task"),
    (base_events.BaseEventLoop, "run_in_executor"),
    (base_events.BaseEventLoop, "time"),
    (base_events.BaseEventLoop, "get_debug"),
    (base_events.BaseEventLoop, "_run_once"),
    (base_events.BaseEventLoop, "is_running"),
    (base_events.BaseEventLoop, "_check_closed"),
    (base_events.BaseEventLoop, "_timer_handle_cancelled"),
    (base_events.BaseEventLoop, "getaddrinfo"),
    (base_events.BaseEventLoop, "getnameinfo"),
    (base_events.BaseEventLoop, "create_connection"),
    (base_events.BaseEventLoop, "create_server"),
    (base_events.BaseEventLoop, "create_datagram_endpoint"),
    (base_events.BaseEventLoop, "start_tls"),
    (base_events.BaseEventLoop, "subprocess_exec"),
    (base_events.BaseEventLoop, "call_exception_handler"),
    (selector_events.BaseSelectorEventLoop, "add_reader"),
    (selector_events.BaseSelectorEventLoop, "remove_reader"),
    (selector_events.BaseSelectorEventLoop, "_add_reader"),
    (selector_events.BaseSelectorEventLoop, "_add_writer"),
    (selector_events.BaseSelectorEventLoop, "_remove_reader"),
    (selector_events.BaseSelectorEventLoop, "_remove_writer"),
    (selector_events.BaseSelectorEventLoop, "_ensure_fd_no_transport"),
    (selector_events.BaseSelectorEventLoop, "sock_recv"),
    (selector_events.BaseSelectorEventLoop, "sock_recv_into"),
    (selector_events.BaseSelectorEventLoop, "sock_recvfrom"),
    (selector_events.BaseSelectorEventLoop, "sock_sendto"),
    (selector_events.BaseSelectorEventLoop, "sock_sendall"),
    (selector_events.BaseSelectorEventLoop, "sock_connect"),
    (selector_events.BaseSelectorEventLoop, "sock_accept"),
    (selector_events.BaseSelectorEventLoop, "_write_to_self"),
    (selector_events.BaseSelectorEventLoop, "_start_serving"),
    (selector_events.BaseSelectorEventLoop, "_accept_connection"),
    (selector_events.BaseSelectorEventLoop, "_accept_connection2"),
    (selector_events.BaseSelectorEventLoop, "_make_socket_transport"),
    (selector_events.BaseSelectorEventLoop, "_make_ssl_transport"),
    (selector_events.BaseSelectorEventLoop, "_make_datagram_transport"),
    (unix_events._UnixSelectorEventLoop, "_make_read_pipe_transport"),
    (unix_events._UnixSelectorEventLoop, "_make_write_pipe_transport"),
    (unix_events._UnixSelectorEventLoop, "_make_subprocess_transport"),
    (unix_events._UnixSelectorEventLoop, "add_signal_handler"),
    (unix_events._UnixSelectorEventLoop, "remove_signal_handler"),
    (events.Handle, "__init__"),
    (events.Handle, "_run"),
    (events.Handle, "cancel"),
    (events.TimerHandle, "__init__"),
    (events.TimerHandle, "cancel"),
    (selector_events._SelectorSocketTransport, "__init__"),
    (selector_events._SelectorSocketTransport, "write"),
    (selector_events._SelectorSocketTransport, "_read_ready"),
    (selector_events._SelectorTransport, "close"),
    (selector_events._SelectorDatagramTransport, "sendto"),
    (asyncio.BaseTransport, "get_extra_info"),
    (unix_events._UnixReadPipeTransport, "_read_ready"),
    (unix_events._UnixWritePipeTransport, "write"),
    (thread.ThreadPoolExecutor, "submit"),
    (thread.ThreadPoolExecutor, "_adjust_thread_count"),
    (thread._WorkItem, "__init__"),
    (thread._WorkItem, "run"),
    (concurrent.futures.Future, "set_result"),
    (concurrent.futures.Future, "set_running_or_notify_cancel"),
    (concurrent.futures.Future, "add_done_callback"),
    (threading.Thread, "__init__"),
    (threading.Thread, "start"),
    (threading.Thread, "run"),
]

# Called when a loop is created or starts: a running program replaces these too late.
EARLY = [
    (base_events.BaseEventLoop, "run_forever"),
    (base_events.BaseEventLoop, "stop"),
    (base_events.BaseEventLoop, "run_until_complete"),
    (base_events.BaseEventLoop, "_check_running"),
    (base_events.BaseEventLoop, "__init__"),
    (thread.ThreadPoolExecutor, "__init__"),
    *HOOKS,
]

# Called at the end: a running program may replace these.
LATE = [
    (base_events.BaseEventLoop, "close"),
    (selector_events.BaseSelectorEventLoop, "close"),
    (unix_events._UnixSelectorEventLoop, "close"),
    (base_events.BaseEventLoop, "is_closed"),
    (thread.ThreadPoolExecutor, "shutdown"),
    (base_events.BaseEventLoop, "shutdown_default_executor"),
]


def name_of(hook):
    return f"{hook[0].__name__}.{hook[1]}" if isinstance(hook, tuple) else None


class Replacement:
    """A replacement as a tool would install it: it counts calls and calls the original."""

    def __init__(self, monkeypatch, cls, name):
        original = getattr(cls, name)

        @functools.wraps(original)
        def replacement(*args, **kwargs):
            self.calls.append(threading.current_thread())
            return original(*args, **kwargs)

        self.calls = []
        monkeypatch.setattr(cls, name, replacement)


async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()


async def exchange(**options):
    reader, writer = await asyncio.open_connection(**options)
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    assert writer.get_extra_info("peername")
    writer.close()
    await writer.wait_closed()


async def use_streams(loop):
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    await exchange(host=host, port=port)
    server.close()
    await server.wait_closed()


async def use_tls(loop):
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context())
    host, port = server.sockets[0].getsockname()
    await exchange(host=host, port=port, ssl=client_context(), server_hostname=HOST)
    reader, writer = await asyncio.open_connection(host, port)
    await writer.start_tls(client_context(), server_hostname=HOST)
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    writer.close()
    await asyncio.sleep(0.01)
    server.close()
    await server.wait_closed()


async def use_sockets(loop):
    left, right = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.socket()
    with left, right, listener, client:
        for sock in (left, right, listener, client):
            sock.setblocking(False)
        receiving = loop.create_task(loop.sock_recv(right, 10))
        await asyncio.sleep(0)
        await loop.sock_sendall(left, b"data")
        assert await receiving == b"data"
        await loop.sock_sendall(left, b"more")
        assert await loop.sock_recv_into(right, bytearray(4)) == 4
        ready = loop.create_future()
        loop.add_reader(right, ready.set_result, None)
        left.send(b"x")
        await ready
        loop.remove_reader(right)
        accepting = loop.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        accepted, _address = await accepting
        accepted.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.setblocking(False)
            datagrams.bind(("127.0.0.1", 0))
            await loop.sock_sendto(datagrams, b"datagram", datagrams.getsockname())
            assert (await loop.sock_recvfrom(datagrams, 100))[0] == b"datagram"


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received):
        self.received = received

    def datagram_received(self, data, address):
        self.received.set_result(data)


async def use_datagrams(loop):
    received = loop.create_future()
    address = ("127.0.0.1", 0)
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Datagrams(received), local_addr=address
    )
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    assert await received == b"x"
    transport.close()


async def use_pipes(loop):
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    to_read, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
    )
    to_write, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writing, "wb", 0))
    to_write.write(b"through\n")
    assert await reader.readline() == b"through\n"
    to_write.close()
    assert await reader.read() == b""
    to_read.close()
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0


async def use_threads(loop):
    assert await loop.run_in_executor(None, int, "3") == 3
    assert await asyncio.to_thread(int, "4") == 4
    assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await loop.getnameinfo(("127.0.0.1", 80), numeric) == ("127.0.0.1", "80")


async def use_signals(loop):
    arrived = asyncio.Event()
    loop.add_signal_handler(signal := 10, arrived.set)
    os.kill(os.getpid(), signal)
    await arrived.wait()
    loop.remove_signal_handler(signal)


async def use_timers(loop):
    fired = loop.create_future()
    loop.call_later(60, fired.set_result, "no").cancel()
    loop.call_at(loop.time() + 0.001, fired.set_result, "yes")
    assert await fired == "yes"
    loop.call_soon(fired.set_result, "never").cancel()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await loop.create_future()
    handled = []
    loop.set_exception_handler(lambda loop, context: handled.append(context["message"]))
    loop.call_exception_handler({"message": "of the program"})
    assert handled == ["of the program"]
    loop.set_exception_handler(None)


USES = (
    *(use_streams, use_tls, use_sockets, use_datagrams, use_pipes, use_threads),
    *(use_signals, use_timers),
)


async def use_everything(loop):
    for use in USES:
        await loop.create_task(use(loop))
    assert loop.is_running()
    loop.set_debug(loop.get_debug())


@pytest.mark.parametrize("hook", EARLY, ids=name_of)
def test_replaced_before_the_loop_is_made(flavour, monkeypatch, hook):
    replacement = Replacement(monkeypatch, *hook)

    async def main():
        await use_everything(asyncio.get_running_loop())

    flavour.run(main())
    assert replacement.calls


@pytest.mark.parametrize("hook", HOOKS, ids=name_of)
def test_replaced_and_restored_while_the_loop_runs(flavour, monkeypatch, hook):
    async def main():
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patch:
            replacement = Replacement(patch, *hook)
            await use_everything(loop)
            assert replacement.calls
        await asyncio.sleep(0)
        count = len(replacement.calls)
        await use_timers(loop)
        await use_streams(loop)
        assert len(replacement.calls) == count

    flavour.run(main())


@pytest.mark.parametrize("hook", LATE, ids=name_of)
def test_replaced_before_shutdown(flavour, monkeypatch, hook):
    async def main():
        await asyncio.to_thread(int)
        return Replacement(monkeypatch, *hook)

    assert flavour.run(main()).calls


@pytest.mark.parametrize(
    "names",
    [
        ("call_soon", "call_later", "call_at", "create_task", "create_future", "run_in_executor"),
        ("_add_reader", "_add_writer", "_remove_reader", "_remove_writer"),
        ("_make_socket_transport", "_accept_connection", "sock_recv", "sock_connect"),
    ],
    ids=" ".join,
)
def test_several_at_once(flavour, monkeypatch, names):
    async def main():
        loop = asyncio.get_running_loop()
        replaced = []
        for name in names:
            cls = next(cls for cls in asyncio.SelectorEventLoop.__mro__ if name in cls.__dict__)
            replaced.append(Replacement(monkeypatch, cls, name))
        await use_everything(loop)
        assert all(replacement.calls for replacement in replaced)

    flavour.run(main())


def test_a_replacement_takes_effect_immediately(loop, monkeypatch):
    """Without a turn of the loop in between."""
    seen = []
    for name in ("call_soon", "call_at", "create_task", "create_future"):
        original = getattr(base_events.BaseEventLoop, name)

        def replacement(self, *args, name=name, original=original, **kwargs):
            seen.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(base_events.BaseEventLoop, name, replacement)
        del seen[:]
        if name == "call_soon":
            loop.call_soon(int)
        elif name == "call_at":
            loop.call_later(0, int)
        elif name == "create_task":
            coroutine = asyncio.sleep(0)
            loop.create_task(coroutine)
        else:
            loop.create_future().cancel()
        assert seen[0] == name
    loop.run_until_complete(asyncio.sleep(0.001))


def test_a_done_future_calls_the_replacement(loop, monkeypatch):
    future = loop.create_future()
    future.add_done_callback(done := [].append)
    replacement = Replacement(monkeypatch, base_events.BaseEventLoop, "call_soon")
    future.set_result(None)
    assert len(replacement.calls) == 1
    loop.run_until_complete(asyncio.sleep(0))
    assert done.__self__ == [future]
    done.__self__.clear()


def replace_code(function, wrapper):
    """Like ddtrace: the function stays, but its code object is replaced."""
    code = function.__code__
    inner = type(function)(code, function.__globals__, function.__name__, function.__defaults__)
    inner.__kwdefaults__ = function.__kwdefaults__
    namespace = function.__globals__
    namespace["_wrapped_of_the_test"] = lambda *args, **kwargs: wrapper(inner, *args, **kwargs)
    source = "def wrapped(*args, **kwargs): return _wrapped_of_the_test(*args, **kwargs)"
    exec(source, namespace, made := {})
    function.__code__ = made["wrapped"].__code__

    def put_back():
        function.__code__ = code
        del namespace["_wrapped_of_the_test"]

    return put_back


@pytest.mark.parametrize("name", ["create_task", "call_soon", "run_in_executor", "call_later"])
def test_the_code_of_a_method_is_replaced(flavour, name):
    seen = []

    def wrapper(original, *args, **kwargs):
        seen.append(name)
        return original(*args, **kwargs)

    async def main():
        loop = asyncio.get_running_loop()
        put_back = replace_code(getattr(base_events.BaseEventLoop, name), wrapper)
        try:
            await use_timers(loop)
            await loop.run_in_executor(None, int)
            await loop.create_task(asyncio.sleep(0.001))
            assert seen
        finally:
            put_back()
        await asyncio.sleep(0)
        count = len(seen)
        await use_timers(loop)
        assert len(seen) == count

    flavour.run(main())


def test_a_method_replaced_on_an_instance(loop):
    """Replaces what asyncio's own methods would call."""
    seen = []

    def replace(name):
        original = getattr(loop, name)

        def replacement(*args, **kwargs):
            seen.append(name)
            return original(*args, **kwargs)

        setattr(loop, name, replacement)

    async def main():
        replace("call_at")
        replace("run_in_executor")
        replace("getaddrinfo")
        loop.call_later(0, int)
        assert seen == ["call_at"]
        await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        assert seen == ["call_at", "run_in_executor"]
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        del seen[:]
        await exchange(host="localhost", port=server.sockets[0].getsockname()[1])
        assert "getaddrinfo" in seen
        server.close()
        await server.wait_closed()
        for name in ("call_at", "run_in_executor", "getaddrinfo"):
            delattr(loop, name)
        del seen[:]
        await use_threads(loop)
        assert seen == []
        await loop.shutdown_default_executor()

    loop.run_until_complete(main())


def test_methods_of_a_subclass(flavour):
    base = asyncio.SelectorEventLoop if flavour.is_asyncio else flavour.module.EventLoop
    seen = []

    class Loop(base):
        def call_at(self, when, callback, *args, context=None):
            seen.append("call_at")
            return super().call_at(when, callback, *args, context=context)

        def run_in_executor(self, executor, func, *args):
            seen.append("run_in_executor")
            return super().run_in_executor(executor, func, *args)

        def _add_reader(self, fd, callback, *args, **kwargs):
            seen.append("_add_reader")
            return super()._add_reader(fd, callback, *args, **kwargs)

        def _make_socket_transport(self, *args, **kwargs):
            seen.append("_make_socket_transport")
            return super()._make_socket_transport(*args, **kwargs)

    loop = Loop()
    loop.set_debug(flavour.debug)
    loop.run_until_complete(use_everything(loop))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert {*seen} == {"call_at", "run_in_executor", "_add_reader", "_make_socket_transport"}


def test_a_method_replaced_on_the_native_class(flavour, monkeypatch):
    async def main():
        replacement = Replacement(monkeypatch, type(asyncio.get_running_loop()), "call_soon")
        await asyncio.create_task(asyncio.sleep(0))
        assert len(replacement.calls) >= 3
        monkeypatch.undo()

    flavour.run(main())


def test_jobs_keep_the_context_captured_by_submit(flavour, monkeypatch):
    """Like OpenTelemetry and Sentry: each job carries its caller's context, even on a thread that
    has served another request."""
    local = threading.local()
    original = thread.ThreadPoolExecutor.submit

    def submit(self, fn, /, *args, **kwargs):
        request = current["request"]

        def job():
            local.request = request
            return fn(*args, **kwargs)

        return original(self, job)

    current = {}

    async def main():
        loop = asyncio.get_running_loop()
        # Before the tool is installed, the pool already has a thread with a long-running job.
        gate = threading.Event()
        lasting = loop.run_in_executor(None, gate.wait, 10)
        monkeypatch.setattr(thread.ThreadPoolExecutor, "submit", submit)
        for request in range(20):
            current["request"] = request
            assert await loop.run_in_executor(None, lambda: local.request) == request
        gate.set()
        assert await lasting
        names = {t.name for t in loop._default_executor._threads}
        assert all(name.startswith("asyncio_") for name in names)

    flavour.run(main())
    assert not [t for t in threading.enumerate() if t.name.startswith("asyncio_")]


def test_an_existing_pool_keeps_working(flavour, monkeypatch):
    async def main():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, int)
        pool = loop._default_executor
        replacement = Replacement(monkeypatch, thread.ThreadPoolExecutor, "submit")
        await loop.run_in_executor(None, int)
        assert loop._default_executor is pool
        assert pool.submit(int, "5").result(5) == 5
        assert len(replacement.calls) == 2
        assert pool._max_workers == thread.ThreadPoolExecutor()._max_workers
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            pool.submit(int)

    flavour.run(main())


def test_replaced_thread_class(flavour, monkeypatch):
    class Thread(threading.Thread):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(threading, "Thread", Thread)
        return type(await loop.run_in_executor(None, threading.current_thread))

    assert flavour.run(main()) is Thread


def test_replaced_executor_class(flavour, monkeypatch):
    class Executor(concurrent.futures.ThreadPoolExecutor):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Executor)
        await loop.run_in_executor(None, int)
        return type(loop._default_executor)

    assert flavour.run(main()) is Executor


def test_replaced_by_a_non_function(loop, monkeypatch):
    from unittest import mock

    original = base_events.BaseEventLoop.call_soon
    call_soon = mock.Mock(side_effect=functools.partial(original, loop))
    monkeypatch.setattr(base_events.BaseEventLoop, "call_soon", call_soon)
    loop.run_until_complete(asyncio.sleep(0))
    assert call_soon.call_count == 3
    monkeypatch.undo()
    call_soon.reset_mock(return_value=True, side_effect=True)


def test_a_replacement_that_raises(loop, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise LookupError("of the tool")

    for name in ("call_soon", "call_later", "create_future", "run_in_executor", "time"):
        with monkeypatch.context() as patch:
            patch.setattr(base_events.BaseEventLoop, name, refuse)
            arguments = {"create_future": (), "time": (), "call_later": (0, int)}
            with pytest.raises(LookupError, match="of the tool"):
                getattr(loop, name)(*arguments.get(name, (None, int)))
    loop.run_until_complete(asyncio.sleep(0))


NOTHING_OWN = """
from ferroloop import _patches

seen = []

def look(loop, versions, has_own, find=_patches.look):
    seen.append(has_own)
    return find(loop, versions, has_own)

_patches.look = look
loop = new_event_loop()
loop.set_debug(True)
loop.run_until_complete(asyncio.sleep(0))
loop.set_exception_handler(print)
loop.slow_callback_duration = 1
loop.call_soon(int)
print(len(seen) > 0, any(seen))
loop.extra = 1
loop.call_soon(int)
print(seen[-1])
loop.close()
"""


@pytest.mark.only("ferroloop")
def test_asyncios_private_attributes_create_no_dict(flavour):
    """A loop has a dict only if the program has stored an attribute: from then on calls of its
    methods take the interpreter's slow path.
    """
    assert run_program(flavour, NOTHING_OWN) == (0, "True False\nTrue\n", "")
