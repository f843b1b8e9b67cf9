"""Random calls of the whole API, in callbacks, `__del__`, `__eq__` and threads, to find crashes.

Usage: `python fuzz/api.py SECONDS SEED`. `LOOP=asyncio` runs the same on asyncio, to compare.

There is no model. The invariants: the process neither crashes nor hangs, no panic occurs, the
loop's view of its tasks and futures agrees with theirs, and the loop raises only what the program
itself raises. A child process with its own seed runs each slice of the time, so that a crash is
reported with the seed that repeats it: `python fuzz/api.py --slice SECONDS SEED`.
"""

import asyncio
import contextlib
import contextvars
import faulthandler
import gc
import io
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref

SLICE = 5.0
if os.environ.get("LOOP") == "asyncio":
    module, new_event_loop = asyncio, asyncio.SelectorEventLoop
else:
    import ferroloop as module
    from ferroloop import new_event_loop

VARIABLE: contextvars.ContextVar = contextvars.ContextVar("VARIABLE", default=0)
DEEPEST, KEPT = 6, 40


class InconsistentError(Exception):
    """The loop's view of its futures and tasks contradicts theirs."""


class Fuzzer:
    """One loop, and objects of all kinds on which random calls are made."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.loop = new_event_loop()
        self.active, self.depth, self.calls, self.faults = True, 0, 0, []
        self.objects: dict[str, list] = {kind: [] for kind in KINDS}
        self.server = None
        self.thread, self.unlisted = threading.get_ident(), weakref.WeakSet()
        if seed % 3 == 0:
            self.loop.set_debug(True)
        self.loop.slow_callback_duration = 1000
        self.loop.set_exception_handler(self.handle_exception)

    def handle_exception(self, loop, context):
        self.check(context.get("exception"))
        if self.random.random() < 0.3:
            self.act()

    def keep(self, kind, thing):
        # From 3.14 on all_tasks() shows the thread of the loop only the tasks that it has made.
        if kind == "task" and sys.version_info >= (3, 14) and threading.get_ident() != self.thread:
            self.unlisted.add(thing)
        kept = self.objects[kind]
        kept.append(thing)
        if len(kept) > KEPT:
            kept.pop(self.random.randrange(len(kept)))
        return thing

    def pick(self, *kinds):
        kept = self.objects[self.random.choice(kinds)]
        return self.random.choice(kept) if kept else None

    def check(self, error):
        """Note an error that only a defect of the loop can cause."""
        if isinstance(error, (SystemError, InconsistentError)) or (
            type(error).__name__ == "PanicException" or "internal error" in str(error)
        ):
            self.faults.append("".join(traceback.format_exception(error)))

    def act(self, *_ignored):
        """Make a few random calls."""
        if self.depth >= DEEPEST or not self.active:
            return
        self.depth += 1
        try:
            for _ in range(self.random.choice([0, 1, 1, 1, 2, 3])):
                self.calls += 1
                try:
                    self.random.choice(ACTIONS)(self)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self.check(error)
        finally:
            self.depth -= 1

    def one_of(self, *choices):
        return self.random.choice(choices)()

    # --- what runs Python code where the loop does not expect it ---------------------

    def bomb(self):
        return Bomb(self)


class Bomb:
    """Acts when it is called, compared or dropped."""

    def __init__(self, fuzzer):
        self.fuzzer = fuzzer

    def __call__(self, *_arguments):
        self.fuzzer.act()

    def __eq__(self, other):
        if self.fuzzer.random.random() < 0.3:
            self.fuzzer.act()
        return self.fuzzer.random.random() < 0.5

    __hash__ = object.__hash__

    def __del__(self):
        if self.fuzzer.random.random() < 0.5:
            self.fuzzer.act()


class SubTask(module.Task):
    pass


class SubFuture(module.Future):
    def __eq__(self, other):
        return self is other

    __hash__ = module.Future.__hash__


class Protocol(asyncio.Protocol):
    def __init__(self, fuzzer):
        self.fuzzer = fuzzer

    def connection_made(self, transport):
        self.fuzzer.keep("transport", transport)
        self.fuzzer.act()

    def eof_received(self):
        self.fuzzer.act()
        return self.fuzzer.random.random() < 0.3

    def act(self, *_arguments):
        self.fuzzer.act()

    data_received = datagram_received = connection_lost = error_received = act
    pause_writing = resume_writing = act


class Buffered(Protocol, asyncio.BufferedProtocol):
    def __init__(self, fuzzer):
        super().__init__(fuzzer)
        self.memory = bytearray(100)

    def get_buffer(self, sizehint):
        self.fuzzer.act()
        if self.fuzzer.random.random() < 0.95:
            return self.memory
        return self.fuzzer.random.choice([b"", None, bytearray(), memoryview(bytearray(9))])

    def buffer_updated(self, nbytes):
        if self.fuzzer.random.random() < 0.2:
            self.memory.clear()
            self.memory = bytearray(self.fuzzer.random.choice([1, 7, 1000, 100_000]))
        self.fuzzer.act()


async def work(fuzzer, steps):
    """A task that awaits random things."""
    loop, choose = fuzzer.loop, fuzzer.random
    for _ in range(steps):
        try:
            match choose.randrange(9):
                case 0 | 1:
                    await asyncio.sleep(0)
                case 2:
                    await asyncio.sleep(choose.random() * 0.003)
                case 3:
                    if (future := fuzzer.pick("future")) is not None:
                        await asyncio.wait_for(future, 0.002)
                case 4:
                    if (task := fuzzer.pick("task")) is not None:
                        await asyncio.wait_for(asyncio.shield(task), 0.002)
                case 5:
                    await asyncio.gather(*map(asyncio.sleep, [0] * 3), return_exceptions=True)
                case 6:
                    async with asyncio.timeout(0.001):
                        await loop.create_future()
                case 7:
                    fuzzer.act()
                case 8:
                    await loop.run_in_executor(None, in_thread, fuzzer)
        except asyncio.CancelledError:
            if choose.random() < 0.5:
                raise
        except Exception as error:
            fuzzer.check(error)
    if choose.random() < 0.1:
        raise ValueError(steps)
    return fuzzer.bomb()


def in_thread(fuzzer):
    """Random calls that another thread may make."""
    loop = fuzzer.loop
    with contextlib.suppress(RuntimeError):
        match fuzzer.random.randrange(5):
            case 0:
                loop.call_soon_threadsafe(fuzzer.act)
            case 1:
                if (future := fuzzer.pick("future")) is not None:
                    loop.call_soon_threadsafe(future.cancel)
            case 2:
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
            case 3:
                gc.collect(0)
            case 4:
                repr(fuzzer.pick("handle", "task"))


# --- the actions -------------------------------------------------------------------------


def make_future(f):
    makers = (module.Future, SubFuture, asyncio.Future)
    f.keep("future", f.random.choice(makers)(loop=f.loop))


def settle_future(f):
    if (future := f.pick("future")) is not None:
        f.one_of(
            lambda: future.set_result(f.bomb()),
            lambda: future.set_result(future),
            lambda: future.set_exception(ValueError(f.bomb())),
            lambda: future.set_exception(StopIteration),
            lambda: future.cancel(f.bomb()),
        )


def change_callbacks(f):
    if (future := f.pick("future", "task")) is not None:
        f.one_of(
            lambda: future.add_done_callback(f.bomb()),
            lambda: future.add_done_callback(f.act, context=contextvars.copy_context()),
            lambda: future.remove_done_callback(f.bomb()),
        )


def look_at_future(f):
    if (future := f.pick("future", "task")) is not None:
        f.one_of(
            future.result,
            future.exception,
            future._make_cancelled_error,
            lambda: repr(future),
            lambda: future._callbacks,
            lambda: future.__await__().send(None),
            lambda: future.__await__().throw(ValueError),
            lambda: setattr(future, "attribute", future),
        )


def initialise_again(f):
    # Not asyncio's own in C: a second `__init__` while its callbacks are scheduled crashes CPython.
    future = f.pick("future")
    if future is not None and type(future) is not asyncio.Future and f.random.random() < 0.2:
        future.__init__(loop=f.loop)


def make_task(f):
    coroutine = work(f, f.random.randrange(5))
    context = contextvars.copy_context()
    try:
        task = f.one_of(
            lambda: f.loop.create_task(coroutine),
            lambda: f.loop.create_task(coroutine, name=f.bomb(), context=context),
            lambda: SubTask(coroutine, loop=f.loop),
            lambda: asyncio.Task(coroutine, loop=f.loop),
        )
    except BaseException:
        coroutine.close()
        raise
    f.keep("task", task)


def use_task(f):
    if (task := f.pick("task")) is not None:
        f.one_of(
            task.cancel,
            task.cancel,
            lambda: task.cancel(f.bomb()),
            task.uncancel,
            task.get_stack,
            task.get_coro,
            lambda: task.set_name(f.bomb()),
            lambda: task.print_stack(file=io.StringIO()),
        )


def schedule(f):
    arguments = [f.bomb()] * f.random.randrange(4)
    handle = f.one_of(
        lambda: f.loop.call_soon(f.bomb(), *arguments),
        lambda: f.loop.call_later(f.random.random() * 0.003, f.bomb(), *arguments),
        lambda: f.loop.call_at(f.loop.time() + f.random.choice([-1, 0, 1000]), f.bomb()),
        lambda: f.loop.call_soon_threadsafe(f.act),
    )
    f.keep("handle", handle)


def use_handle(f):
    if (handle := f.pick("handle")) is not None:
        f.one_of(
            handle.cancel,
            handle.cancel,
            handle._run,
            lambda: repr(handle),
            lambda: handle._args,
            lambda: handle == f.pick("handle"),
            lambda: handle.get_context().run(f.act),
        )


def refer_weakly(f):
    if (thing := f.pick("future", "task", "handle", "transport")) is not None:
        f.keep("reference", weakref.ref(thing, f.act))
    if (reference := f.pick("reference")) is not None:
        reference()


def drop(f):
    kept = f.objects[f.random.choice(KINDS)]
    if kept:
        del kept[f.random.randrange(len(kept))]


def collect(f):
    gc.collect(f.random.choice([0, 0, 0, 1, 2]))


def set_variable(f):
    VARIABLE.set(f.random.choice([1, f.bomb()]))


def start(f, coroutine):
    f.keep("task", f.loop.create_task(coroutine))


def connect(f):
    async def pair():
        for end in socket.socketpair():
            end.setblocking(False)
            await f.loop.create_connection(
                lambda: f.random.choice([Protocol, Buffered])(f), sock=end
            )

    async def stream():
        async with asyncio.timeout(0.05):
            address = f.server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            f.keep("transport", writer.transport)
            writer.write(b"q" * f.random.randrange(100_000))
            try:
                await writer.drain()
                await reader.read(f.random.choice([1, 100, -1]))
            finally:
                writer.close()

    async def datagrams():
        transport, _ = await f.loop.create_datagram_endpoint(
            lambda: Protocol(f), local_addr=("127.0.0.1", 0)
        )
        for _ in range(f.random.randrange(30)):
            transport.sendto(b"x" * f.random.randrange(2000), transport.get_extra_info("sockname"))

    async def pipe():
        ends = os.pipe()
        await f.loop.connect_read_pipe(lambda: Protocol(f), os.fdopen(ends[0], "rb", 0))
        transport, _ = await f.loop.connect_write_pipe(
            lambda: Protocol(f), os.fdopen(ends[1], "wb", 0)
        )
        f.keep("transport", transport)

    start(f, f.random.choice([pair, stream, datagrams, pipe])())


def use_transport(f):
    if (transport := f.pick("transport")) is None:
        return
    data = f.random.choice([b"", b"x", bytearray(300_000), memoryview(b"abcdef")[::2]])
    f.one_of(
        *[lambda: transport.write(data)] * 5,
        lambda: transport.writelines([data, data]),
        lambda: transport.close(),
        lambda: transport.abort(),
        lambda: transport.pause_reading(),
        lambda: transport.resume_reading(),
        lambda: transport.write_eof(),
        lambda: transport.set_write_buffer_limits(f.random.randrange(1000)),
        lambda: transport.set_protocol(f.random.choice([Protocol, Buffered])(f)),
        lambda: transport.get_extra_info("socket").shutdown(2),
        lambda: transport.sendto(data, ("127.0.0.1", 9)),
        lambda: repr(transport),
    )


def use_socket(f):
    if len(f.objects["socket"]) < 10:
        for end in socket.socketpair():
            end.setblocking(False)
            f.keep("socket", end)
    sock = f.pick("socket")
    call = f.random.choice(
        [
            lambda: f.loop.sock_recv(sock, f.random.choice([0, 1, 100_000])),
            lambda: f.loop.sock_recv_into(sock, bytearray(f.random.choice([0, 1, 1000]))),
            lambda: f.loop.sock_recvfrom_into(sock, bytearray(100)),
            lambda: f.loop.sock_sendall(sock, bytearray(f.random.choice([0, 1, 300_000]))),
            lambda: f.loop.sock_accept(sock),
        ]
    )

    async def limited():
        await asyncio.wait_for(call(), 0.005)

    if f.random.random() < 0.8:
        start(f, limited())
    elif f.random.random() < 0.3:
        sock.close()
    else:
        operation = call()
        f.one_of(operation.close, lambda: operation.send(None), lambda: operation.throw(ValueError))


def watch_socket(f):
    if (sock := f.pick("socket")) is not None and sock.fileno() >= 0:
        f.one_of(
            lambda: f.loop.add_reader(sock, f.bomb()),
            lambda: f.loop.remove_reader(sock),
            lambda: f.loop.add_writer(sock, f.loop.remove_writer, sock),
        )


def look_at_loop(f):
    f.one_of(
        lambda: asyncio.all_tasks(f.loop),
        lambda: repr(f.loop),
        lambda: list(f.loop._ready),
        lambda: list(f.loop._scheduled),
        lambda: check_consistency(f),
    )


def check_consistency(f):
    # Finalizers that run meanwhile may make tasks and end tasks.
    known = list(f.objects["task"])
    ended = [task for task in known if task.done()]
    tasks = asyncio.all_tasks(f.loop)
    pending = [task for task in known if not task.done()]
    missing = [task for task in pending if task not in tasks and task not in f.unlisted]
    too_many = [task for task in ended if task in tasks]
    states = [f for f in f.objects["future"] if f.done() != (f._state != "PENDING")]
    if missing or too_many or states:
        raise InconsistentError(missing, too_many, states, tasks)


def use_executor(f):
    function = f.random.choice([in_thread, repr, f.bomb().__call__])
    f.keep("future", f.loop.run_in_executor(None, function, f))


def stop_or_nest(f):
    if f.random.random() < 0.1:
        f.one_of(
            f.loop.stop,
            f.loop.close,
            lambda: f.loop.run_until_complete(f.loop.create_future()),
            lambda: f.loop.set_debug(not f.loop.get_debug()),
        )


KINDS = ("future", "task", "handle", "transport", "reference", "socket")
ACTIONS = [
    make_future, settle_future, settle_future, change_callbacks, look_at_future, initialise_again,
    make_task, use_task, use_task, schedule, schedule, use_handle, refer_weakly, drop, drop,
    collect, set_variable, connect, connect, use_transport, use_transport, use_transport,
    use_transport, use_socket, use_socket, watch_socket, look_at_loop, use_executor, stop_or_nest,
]  # fmt: skip


# --- running -----------------------------------------------------------------------------


async def drive(fuzzer, end):
    while time.monotonic() < end:
        fuzzer.act()
        await asyncio.sleep(0 if fuzzer.random.random() < 0.9 else 0.001)
        tasks = asyncio.all_tasks(fuzzer.loop)
        if len(tasks) > 300:
            for task in tasks - {asyncio.current_task()}:
                with contextlib.suppress(RecursionError):
                    task.cancel()
            await asyncio.sleep(0.01)


def run_slice(seconds: float, seed: int) -> int:
    """Run one loop for `seconds`. Return the exit status: 0 if nothing was found."""
    warnings.simplefilter("ignore")
    logging.disable()
    sys.unraisablehook = lambda _unraisable: None
    faulthandler.enable()
    faulthandler.dump_traceback_later(seconds + 30, exit=True)
    fuzzer = Fuzzer(seed)
    loop = fuzzer.loop
    end = time.monotonic() + seconds
    serve = loop.create_server(lambda: fuzzer.random.choice([Protocol, Buffered])(fuzzer), "::1", 0)
    fuzzer.server = loop.run_until_complete(serve)
    while time.monotonic() < end:
        try:
            loop.run_until_complete(drive(fuzzer, end))
        except RuntimeError as error:
            if str(error) != "Event loop stopped before Future completed.":
                fuzzer.faults.append(f"out of the loop: {error!r}")
        except asyncio.CancelledError:
            pass  # the driver itself is among the tasks
        except BaseException as error:
            fuzzer.faults.append(f"out of the loop: {error!r}")
    finish(fuzzer)
    for fault in fuzzer.faults:
        print(fault)
    print(f"api: seed {seed}, {fuzzer.calls} calls, {len(fuzzer.faults)} faults", flush=True)
    return 1 if fuzzer.faults else 0


def finish(fuzzer):
    """End everything; nothing may hang or be left over."""
    loop = fuzzer.loop
    fuzzer.active = False
    fuzzer.server.close()
    for transport in fuzzer.objects["transport"]:
        with contextlib.suppress(Exception):
            transport.abort()
    for _ in range(20):
        for task in asyncio.all_tasks(loop):
            with contextlib.suppress(RecursionError):
                task.cancel()
        loop.call_later(0.002, loop.stop)
        loop.run_forever()
    shutdown = loop.create_task(loop.shutdown_default_executor())
    while not shutdown.done():
        # Some callback may still stop the loop.
        shutdown.add_done_callback(lambda _task: loop.stop())
        loop.run_forever()
    shutdown.result()
    loop.close()
    for kept in fuzzer.objects.values():
        kept.clear()
    gc.collect()


def main(seconds: float, seed: int) -> int:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        length = min(SLICE, left)
        child = [sys.executable, __file__, "--slice", str(length), str(seed)]
        status = subprocess.run(child, timeout=length + 60, check=False).returncode
        if status != 0:
            print(f"api: status {status}; repeat by: {' '.join(child[1:])}")
            return 1
        seed += 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--slice":
        sys.exit(run_slice(float(sys.argv[2]), int(sys.argv[3])))
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2])))
