"""Structures that Python code can make arbitrarily deep or cyclic are handled within bounds: cycles
of tasks that await each other, chains of objects that keep one another alive."""

import asyncio
import contextlib
import functools
import re
import socket
import sys

import pytest

from ..support.flavours import Flavour
from ..support.programs import run_program

DEBUG_BUILD = hasattr(sys, "gettotalrefcount")

# From 3.14 on asyncio's recursion is limited by the size of the stack.
TOO_DEEP = r"(maximum recursion depth exceeded|Stack overflow \(used \d+ kB\))"


def drain(loop, turns=1):
    for _ in range(turns):
        loop.call_soon(loop.stop)
        loop.run_forever()


# --- tasks that await each other -----------------------------------------------------


async def through_await(task):
    await task


async def through_gather(task):
    await asyncio.gather(task)


async def through_shield(task):
    await asyncio.shield(task)


async def through_wait_for(task):
    await asyncio.wait_for(task, 1000)


def make_cycle(loop, make_task, wait, length=3):
    """Tasks each of which awaits the next; the last one awaits the first."""
    tasks = []
    start = loop.create_future()

    async def member(number):
        await start
        # The cycle ends when the test has seen enough of it.
        with contextlib.suppress(asyncio.CancelledError):
            await wait(tasks[(number + 1) % length])

    tasks += [make_task(member(number)) for number in range(length)]
    drain(loop)
    start.set_result(None)
    drain(loop, 3)
    return tasks


def break_cycle(loop, tasks):
    """Ends the first task as if what it awaits was cancelled, which ends them all."""
    cancelled = loop.create_future()
    cancelled.cancel()
    awaited = tasks[0]._fut_waiter
    # From 3.14 on gather() adds another callback there, which shows the tasks.
    wake_up, context = next(
        it
        for it in awaited._callbacks
        if "wakeup" in repr(it[0]) and not isinstance(it[0], functools.partial)
    )
    awaited.remove_done_callback(wake_up)
    loop.call_soon(wake_up, cancelled, context=context)
    loop.run_until_complete(asyncio.wait(tasks))


# Before 3.12 wait_for() used a future in between, which ends the chain.
WAYS = [through_await, through_gather] + [through_wait_for] * (sys.version_info >= (3, 12))


@pytest.mark.parametrize("wait", WAYS)
def test_cancelling_tasks_that_await_each_other(loop, wait):
    tasks = make_cycle(loop, loop.create_task, wait)
    for task in tasks:
        with pytest.raises(RecursionError, match=TOO_DEEP):
            task.cancel()
        assert not task.done()
    break_cycle(loop, tasks)


def test_cancelling_a_cycle_through_shields_ends(loop):
    tasks = make_cycle(loop, loop.create_task, through_shield)
    assert [task.cancel() for task in tasks] == [True] * 3
    loop.run_until_complete(asyncio.wait(tasks))


@pytest.mark.parametrize("length", [1, 2, 7, 64, 65])
def test_cancelling_a_task_that_leads_into_a_cycle(loop, length):
    cycle = make_cycle(loop, loop.create_task, through_await, max(length, 2))
    outer = cycle[0]
    for _ in range(length):
        outer = loop.create_task(through_await(outer))
    drain(loop)
    with pytest.raises(RecursionError, match=f"^{TOO_DEEP} while calling a Python object$"):
        outer.cancel()
    break_cycle(loop, cycle)
    loop.run_until_complete(outer)


def test_cancelling_subclassed_tasks_that_await_each_other(loop, flavour):
    class Plain(flavour.Task):
        pass

    class Overriding(flavour.Task):
        def cancel(self, msg=None):
            return super().cancel(msg)

    for make in (Plain, Overriding):
        tasks = make_cycle(loop, functools.partial(make, loop=loop), through_await)
        with pytest.raises(RecursionError, match=TOO_DEEP):
            tasks[1].cancel()
        break_cycle(loop, tasks)


def test_a_method_replaced_on_an_instance_is_called(loop, flavour):
    class Task(flavour.Task):
        pass

    seen = []
    inner = Task(through_await(loop.create_future()), loop=loop)
    outer = Task(through_await(inner), loop=loop)
    drain(loop)
    inner.cancel = lambda msg=None: seen.append(msg)
    assert outer.cancel("why") is True
    assert seen == ["why"]
    del inner.cancel
    assert inner.cancel()
    loop.run_until_complete(asyncio.wait([outer]))


@pytest.mark.only(
    "ferroloop"
)  # asyncio stops after 1,000 or 10,000 tasks, depending on the version
def test_a_long_chain_of_tasks_is_cancelled(loop):
    loop.set_debug(False)  # a slow step would be logged, with all tasks that wait for it
    future = innermost = loop.create_future()
    for _ in range(20_000):
        future = loop.create_task(through_await(future))
    drain(loop)
    assert future.cancel()
    assert innermost.cancelled()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(future)


CYCLE_AT_THE_END = """
async def main():
    async def member(number):
        await asyncio.sleep(0)
        await tasks[1 - number]
    tasks = [asyncio.create_task(member(number)) for number in range(2)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task._log_destroy_pending = False

try:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
except RecursionError as error:
    print(error, flush=True)
os._exit(0)
"""


def test_a_runner_ends_with_tasks_that_await_each_other(flavour: Flavour):
    status, out, errors = run_program(flavour, CYCLE_AT_THE_END)
    assert (status, errors) == (0, "")
    assert re.fullmatch(f"{TOO_DEEP} while calling a Python object\n", out)


# --- chains that are freed -----------------------------------------------------------

CHAINS = """
import gc, functools, contextvars
LENGTH = 100_000
loop = new_event_loop()
module = sys.modules[type(loop).__module__.split(".")[0]]
loop.set_exception_handler(lambda loop, context: None)
Future, Task, Handle = module.Future, module.Task, module.Handle

class SubFuture(Future):
    pass

class SubHandle(Handle):
    pass

class Callback:
    def __init__(self, kept):
        self.kept = kept
    def run(self):
        pass

async def nothing(argument):
    return argument

def turn():
    loop.call_soon(loop.stop)
    loop.run_forever()

def handle(kept):
    return loop.call_later(1e6, id, kept)

def handle_of_two(kept):
    return loop.call_later(1e6, id, kept, kept)

def handle_of_method(kept):
    return loop.call_later(1e6, Callback(kept).run)

def handle_in_context(kept):
    context = contextvars.copy_context()
    context.run(VARIABLE.set, kept)
    return loop.call_later(1e6, id, context=context)

def handle_that_ran(kept):
    return loop.call_soon(str, kept if kept is None else functools.partial(id, kept))

def handle_of_subclass(kept):
    return SubHandle(id, (kept,), loop)

def result(kept, make=Future):
    future = make(loop=loop)
    future.set_result(kept)
    return future

def result_of_subclass(kept):
    return result(kept, SubFuture)

def exception(kept):
    future = Future(loop=loop)
    future.set_exception(Exception(kept))
    return future

def retrieved_exception(kept):
    future = exception(kept)
    future.exception()
    return future

def message(kept):
    future = Future(loop=loop)
    future.cancel(kept)
    return future

def done_callback(kept):
    future = Future(loop=loop)
    future.add_done_callback(functools.partial(id, kept))
    return future

def iterator(kept):  # asyncio overflows the stack
    return result(kept).__await__()

def task(kept):
    made = Task(nothing(kept), loop=loop)
    turn()
    return made

VARIABLE = contextvars.ContextVar("VARIABLE")
for make in (handle, handle_of_two, handle_of_method, handle_in_context, handle_that_ran,
             handle_of_subclass, result, result_of_subclass, exception, retrieved_exception,
             message, done_callback, task) + (() if module is asyncio else (iterator,)):
    print(make.__name__, flush=True)
    loop = new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    kept = None
    for _ in range(LENGTH):
        kept = make(kept)
    loop.close()
    del kept, loop
    gc.collect()
"""


def test_chains_are_freed(flavour: Flavour):
    if flavour.debug:
        pytest.skip("the same objects, each with a stack that takes long to extract")
    if DEBUG_BUILD and flavour.name == "asyncio":
        pytest.skip("the frames of a debug build are too large for asyncio's tasks")
    status, out, errors = run_program(flavour, CHAINS)
    assert (status, errors) == (0, ""), out


THREADS = """
loop = new_event_loop()
module = sys.modules[type(loop).__module__.split(".")[0]]

class Other:
    '''Frees a separate chain in the middle of another one.'''
    def __init__(self, kept):
        self.kept = kept
    def __del__(self):
        other = None
        for _ in range(200):
            other = module.Handle(id, (other,), loop)
        freed.append(None)

def free_chains():
    kept = None
    for _ in range(CHAIN):
        kept = module.Handle(id, (kept, Other(kept)), loop)
    del kept

freed = []
sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=free_chains) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(freed))
loop.close()
"""


def test_chains_are_freed_by_several_threads(flavour: Flavour):
    length = 30 if DEBUG_BUILD else 300
    source = THREADS.replace("CHAIN", str(length))
    assert run_program(flavour, source) == (0, f"{3 * length}\n", "")


WAITING = """
# One thread waits in a finalizer deep inside a chain that is being freed; meanwhile another thread
# and a forked child free their own chains, completely.
class Ended:
    def __init__(self, action):
        self.action = action

    def __del__(self):
        self.action()

def chain(action):
    last = Ended(action)
    for _ in range(CHAIN):
        future = loop.create_future()
        future.set_result(last)
        last = future
    return last

def wait():
    inside.set()
    go_on.wait()

def free_chain():
    ended = threading.Event()
    chain(ended.set)
    assert ended.is_set()

loop = new_event_loop()
inside, go_on = threading.Event(), threading.Event()
thread = threading.Thread(target=lambda: chain(wait) and None)
thread.start()
inside.wait()
free_chain()
pid = os.fork()
if not pid:
    free_chain()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
go_on.set()
thread.join()
free_chain()
loop.close()
"""


@pytest.mark.parametrize("length", [1, 30, 300])
def test_chains_are_freed_while_a_finalizer_waits(flavour: Flavour, length):
    source = WAITING.replace("CHAIN", str(min(length, 30) if DEBUG_BUILD else length))
    # From 3.12 on a fork in a process with threads emits a warning.
    options = ("-W", "ignore::DeprecationWarning")
    assert run_program(flavour, source, *options) == (0, "0\n", "")


@pytest.mark.only("ferroloop")  # asyncio's extension module keeps its classes to itself
def test_the_extension_module_is_imported_again(flavour: Flavour):
    source = """
        import ferroloop
        loop = new_event_loop()
        for _ in range(3):
            del sys.modules["ferroloop._ferroloop"]
            import ferroloop._ferroloop
            future = loop.create_future()
            loop.call_soon(future.set_result, 1)
            print(loop.run_until_complete(future))
            task = ferroloop.Task(asyncio.sleep(0, 2), loop=loop)
            print(loop.run_until_complete(task))
            del future, task
        loop.close()
    """
    assert run_program(flavour, source) == (0, "1\n2\n" * 3, "")


# --- misuse that a loop survives -----------------------------------------------------


def test_future_reinitialised_before_its_waiter_wakes(loop, flavour):
    """The error of the future is raised in the task, and the loop continues."""
    if flavour.initializes_once:
        pytest.skip("__init__ runs once")
    future = flavour.Future(loop=loop)
    caught = []

    async def wait():
        try:
            await future
        except asyncio.InvalidStateError as error:
            caught.append(str(error))
        return "over"

    task = loop.create_task(wait())
    drain(loop)
    future.set_result(1)
    future.__init__(loop=loop)
    assert loop.run_until_complete(task) == "over"
    assert caught == ["Result is not set."]


def test_sock_sendall_keeps_the_data_in_place(loop):
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        data = bytearray(b"x" * 1_000_000)
        sending = loop.create_task(loop.sock_sendall(near, data))
        drain(loop, 2)
        with pytest.raises(BufferError):
            data.clear()

        async def receive():
            received = 0
            while received < len(data):
                received += len(await loop.sock_recv(far, 1 << 16))
            await sending

        loop.run_until_complete(receive())
        data.clear()

        data = bytearray(b"x" * 1_000_000)
        sending = loop.create_task(loop.sock_sendall(near, data))
        drain(loop, 2)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(sending)
        data.clear()


# --- the end of the process ----------------------------------------------------------

DAEMONS = """
def run(main):
    loop = new_event_loop()
    loop.run_until_complete(main(loop))

async def nothing():
    pass

async def tasks(loop):
    while True:
        await asyncio.gather(*(nothing() for _ in range(100)))

async def callbacks(loop):
    def again():
        loop.call_soon(again)
        sum(range(1000))
    again()
    await loop.create_future()

async def timers(loop):
    while True:
        await asyncio.sleep(0.0001)

async def streams(loop):
    import socket
    near, far = socket.socketpair()
    async def echo(reader, writer):
        while True:
            writer.write(await reader.readexactly(5))
    server = loop.create_task(echo(*await asyncio.open_connection(sock=far)))
    reader, writer = await asyncio.open_connection(sock=near)
    while True:
        writer.write(b"hello")
        await reader.readexactly(5)

sys.setswitchinterval(1e-4)
for main in (tasks, callbacks, timers, streams):
    threading.Thread(target=run, args=[main], daemon=True).start()
time.sleep(0.1)
"""


def test_daemon_threads_whose_loops_are_busy_at_exit(flavour: Flavour):
    for _ in range(3):
        assert run_program(flavour, DAEMONS) == (0, "", "")


DAEMONS_INSIDE_HOOKS = """
import concurrent.futures, socket

def pause(*args, **kwargs):
    time.sleep(0.0005)

class Deleted:
    def __del__(self):
        pause()

class Equal:
    __hash__ = None
    def __eq__(self, other):
        pause()
        return False
    def __call__(self, future):
        pass

class File:
    def __init__(self, sock):
        self.sock = sock
    def fileno(self):
        pause()
        return self.sock.fileno()

class Socket(socket.socket):
    def send(self, *args):
        pause()
        return super().send(*args)
    def recv(self, *args):
        pause()
        return super().recv(*args)

class Awaitable(asyncio.Future):
    def get_loop(self):
        pause()
        return super().get_loop()
    def __await__(self):
        self._asyncio_future_blocking = True
        yield self

def in_loop(main):
    loop = new_event_loop()
    loop.run_until_complete(main(loop))

async def deleted_arguments(loop):
    while True:
        loop.call_soon(len, (Deleted(),))
        await asyncio.sleep(0)

async def compared_callbacks(loop):
    future = loop.create_future()
    future.add_done_callback(Equal())
    while True:
        future.remove_done_callback(Equal())
        await asyncio.sleep(0)

async def watched_files(loop):
    near, far = socket.socketpair()
    while True:
        loop.add_reader(File(near), pause)
        loop.remove_reader(File(near))
        await asyncio.sleep(0)

async def overridden_sockets(loop):
    near, far = (Socket(fileno=each.detach()) for each in socket.socketpair())
    near.setblocking(False)
    far.setblocking(False)
    while True:
        await loop.sock_sendall(near, b"hello")
        await loop.sock_recv(far, 5)

async def awaited_subclasses(loop):
    while True:
        future = Awaitable(loop=loop)
        loop.call_soon(future.set_result, None)
        await future

async def replaced_turns(loop):
    turn = loop._run_once
    def _run_once():
        pause()
        turn()
    loop._run_once = _run_once
    while True:
        await asyncio.sleep(0)

def new_loops():
    while True:
        loop = new_event_loop()
        loop.set_exception_handler(pause)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

def finalizers():
    loop = new_event_loop()
    loop.set_exception_handler(pause)
    while True:
        loop.create_future().set_exception(ValueError())

def messages(loop):
    while True:
        loop.call_soon_threadsafe(pause)
        pause()

def jobs(loop):
    executor = concurrent.futures.ThreadPoolExecutor(1)
    def submit(*args):
        pause()
        return concurrent.futures.Future()
    executor.submit = submit
    while True:
        loop.run_in_executor(executor, pause)

async def idle(loop):
    await loop.create_future()

shared = new_event_loop()
threads = [(in_loop, main) for main in (
    deleted_arguments, compared_callbacks, watched_files, overridden_sockets,
    awaited_subclasses, replaced_turns,
)]
threads += [(new_loops,), (finalizers,), (messages, shared), (jobs, shared)]
threads += [(shared.run_until_complete, idle(shared))]
for function, *arguments in threads:
    threading.Thread(target=function, args=arguments, daemon=True).start()
time.sleep(0.3)
"""


def test_daemon_threads_inside_hooks_at_exit(flavour: Flavour):
    """CPython ends each thread at the point where it next asks for the GIL."""
    for _ in range(3):
        assert run_program(flavour, DAEMONS_INSIDE_HOOKS) == (0, "", "")
