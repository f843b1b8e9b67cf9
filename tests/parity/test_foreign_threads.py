"""Other threads call the public methods of everything that a busy loop uses.

asyncio's objects are for one thread, so such a call may raise anything. It must not crash the
process, hang a thread or lose a callback of `call_soon_threadsafe()`.
"""

import pytest

from ..support.programs import Program, run_program

PROGRAM = r"""
import collections, inspect, random, socket, sys, warnings
warnings.simplefilter("ignore")
sys.setswitchinterval(1e-5)
sys.unraisablehook = lambda unraisable: None
SECONDS, CALLS, THREADS = 1, 5000, 4

loop = new_event_loop()
loop.set_exception_handler(lambda loop, context: None)
stopping = threading.Event()
# The objects in use, by kind. The threads take what is there at that moment.
used = {"loop": [loop]}
scheduled = called = 0
main_ended = False
counting = threading.Lock()
spare, other_end = socket.socketpair()

def count():
    global called
    called += 1

def schedule_counted():
    global scheduled
    with counting:
        scheduled += 1
        loop.call_soon_threadsafe(count)

def use(kind, *objects):
    used[kind] = objects

# What the methods are called with; others without arguments.
ARGUMENTS = {
    "call_soon": lambda: (int,),
    "call_later": lambda: (0.001, int),
    "call_at": lambda: (loop.time(), int),
    "create_task": lambda: (asyncio.sleep(0),),
    "run_in_executor": lambda: (None, int),
    "add_reader": lambda: (spare, int),
    "add_writer": lambda: (spare, int),
    "remove_reader": lambda: (spare,),
    "remove_writer": lambda: (spare,),
    "add_done_callback": lambda: (int,),
    "remove_done_callback": lambda: (int,),
    "set_result": lambda: (1,),
    "set_exception": lambda: (ValueError("foreign"),),
    "set_name": lambda: ("renamed",),
    "write": lambda: (b"foreign\n",),
    "writelines": lambda: ([b"foreign", b"\n"],),
    "sendto": lambda: (b"foreign",),
    "get_extra_info": lambda: (random.choice(["socket", "peername", "sockname", "pipe"]),),
    "feed_data": lambda: (b"foreign\n",),
    "set_transport": lambda: (None,),
    "send": lambda: (None,),
    "throw": lambda: (ValueError("foreign"),),
    "sock_recv": lambda: (spare, 1),
    "sock_sendall": lambda: (spare, b"x"),
}
# These run or end the loop, or replace parts of it that the program below needs.
EXCLUDED = {
    "run_forever", "run_until_complete", "stop", "close", "set_task_factory",
    "set_default_executor", "set_exception_handler", "default_exception_handler",
    "shutdown_default_executor", "subprocess_shell", "subprocess_exec", "sendfile",
    "connect_read_pipe", "connect_write_pipe",
}
PROTOCOL = ("__repr__", "__await__", "__iter__", "__hash__")
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

def attack(seed):
    choose = random.Random(seed)
    while not stopping.is_set():
        if choose.random() < 0.1:
            schedule_counted()
        kind = choose.choice(list(used))
        target = choose.choice(used[kind] or [None])
        names = [name for name in dir(target) if not name.startswith("_")]
        name = choose.choice([*names, *PROTOCOL])
        if (name in EXCLUDED and kind == "loop") or name == "print_stack":
            continue
        # Two threads that resume or close one of Python's own coroutines may corrupt it then.
        if not HAS_GIL and (kind == "reading" or name == "get_coro"):
            continue
        try:
            value = getattr(target, name)
            result = value(*ARGUMENTS.get(name, tuple)()) if callable(value) else value
            if inspect.iscoroutine(result) or inspect.isgenerator(result):
                result.close()
        except BaseException as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["returned"] += 1

outcomes = collections.Counter()

async def echo(reader, writer):
    use("server streams", reader, writer, writer.transport)
    try:
        while data := await reader.readline():
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()

async def tcp():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    use("client streams", reader, writer, writer.transport, server)
    try:
        for _ in range(20):
            writer.write(b"hello\n")
            reading = reader.readline()
            use("reading", reading)
            await asyncio.wait_for(reading, 0.2)
    finally:
        writer.close()
        server.close()

async def udp():
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    use("datagrams", transport)
    for _ in range(20):
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        await asyncio.sleep(0)
    transport.close()

async def pipe():
    reading, writing = os.pipe()
    transport, _ = await loop.connect_read_pipe(asyncio.Protocol, open(reading, "rb", 0))
    other, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, open(writing, "wb", 0))
    use("pipes", transport, other)
    for _ in range(20):
        other.write(b"x")
        await asyncio.sleep(0)
    transport.close(), other.close()

async def tasks():
    for _ in range(50):
        future, event, queue = loop.create_future(), asyncio.Event(), asyncio.Queue()
        task = loop.create_task(asyncio.sleep(0.001))
        iterator = iter(future)
        handles = loop.call_later(0.001, int), loop.call_soon(event.set)
        job = loop.run_in_executor(None, int)
        use("futures", future, task, iterator, job, asyncio.gather(task, return_exceptions=True))
        use("handles", *handles)
        receiving = loop.sock_recv(spare, 10)
        use("calls", receiving)
        other_end.send(b"x")
        await asyncio.wait_for(receiving, 0.2)
        loop.call_soon(lambda: future.done() or future.set_result(None))
        await future
        await task
        await job

async def main():
    spare.setblocking(False)
    ends = loop.time() + SECONDS
    while loop.time() < ends or outcomes["returned"] < CALLS:
        for part in (tcp, udp, pipe, tasks):
            try:
                await asyncio.wait_for(part(), 0.5)
            except (Exception, asyncio.CancelledError):
                asyncio.current_task().uncancel()
            for waiting in asyncio.all_tasks() - {asyncio.current_task()}:
                waiting.cancel()
    global main_ended
    main_ended = True

# Waits for the threads, then for the callbacks that they have scheduled.
async def rest():
    while any(thread.is_alive() for thread in threads):
        await asyncio.sleep(0.01)
    ends = loop.time() + 20
    while called != scheduled and loop.time() < ends:
        await asyncio.sleep(0.01)

def run():
    # Of two tasks, so that a callback that is lost is told from an attack that ends main() early.
    try:
        loop.run_until_complete(main())
    finally:
        stopping.set()
        loop.run_until_complete(rest())

threads = [threading.Thread(target=attack, args=(seed,)) for seed in range(THREADS)]
running = threading.Thread(target=run)
running.start()
for thread in threads:
    thread.start()
running.join()
print(main_ended, called - scheduled)
os._exit(0)  # what the threads have made of the loop is not to be shut down in order
"""


@pytest.mark.only("ferroloop")  # asyncio may crash or hang
@pytest.mark.mode("plain")
def test_every_public_method(flavour):
    with Program(flavour, PROGRAM) as program:
        # Most of the time the threads wait for each other, the longer the busier the machine is.
        status, out, errors = program.finish(seconds=120)
    assert (status, out) == (0, "True 0\n"), errors
    assert "panic" not in errors, errors


@pytest.mark.only("ferroloop")  # without a GIL, asyncio waits for the step of a task
@pytest.mark.mode("plain")
def test_while_a_callback_computes(flavour):
    """The callback ends when another thread has looked at all that is the loop's."""
    source = """
    loop = new_event_loop()
    computing = threading.Event()
    answered = False
    seen = []

    async def main():
        task, future = asyncio.current_task(), loop.create_future()
        handle, timer = loop.call_soon(int), loop.call_later(100, int)
        threading.Thread(target=look, args=(task, future, handle, timer)).start()
        computing.set()
        while not answered:
            pass
        timer.cancel()

    def look(task, future, handle, timer):
        global answered
        computing.wait()
        for each in (loop, task, future, handle, timer):
            seen.append(type(each).__name__ in repr(each))
        seen.append((loop.is_running(), loop.is_closed(), loop.get_debug(), task.done()))
        seen.append((task.get_name(), future.cancelled(), handle.cancelled(), timer.when() > 0))
        seen.append(task in asyncio.all_tasks(loop))
        seen.append(future.cancel())
        loop.metrics() if hasattr(loop, "metrics") else None
        answered = True

    loop.run_until_complete(main())
    loop.close()
    print(*seen, sep="\\n")
    """
    expected = [True, True, True, True, True]
    expected += [(True, False, False, False), ("Task-1", False, False, True), True, True]
    lines = "".join(f"{each}\n" for each in expected)
    assert run_program(flavour, source) == (0, lines, "")
