"""os.fork() and multiprocessing: parent and child continue without disturbing each other."""

import os
import signal
import socket
import sys
import textwrap

import pytest

from ..support.programs import Program, run_program

pytestmark = pytest.mark.mode("plain")

# Runs a function in a forked child and returns its exit status.
IN_CHILD = """
def in_child(function):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        function()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)

async def talk():
    import socket
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        loop.call_later(0.01, left.send, b"hello")
        return await loop.sock_recv(right, 100)

def run(main):
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
"""


def check(flavour, source, expected):
    # From 3.12 on a fork in a process with threads emits a warning.
    options = ("-W", "ignore::DeprecationWarning")
    script = IN_CHILD + textwrap.dedent(source)
    assert run_program(flavour, script, *options) == (0, expected, "")


def test_both_sides_run_new_loops(flavour):
    source = """
    loop = new_event_loop()
    print(loop.run_until_complete(talk()))
    print(in_child(lambda: print("child", run(talk()))))
    print(loop.run_until_complete(talk()), run(talk()))
    loop.close()
    """
    expected = "b'hello'\nchild b'hello'\n0\nb'hello' b'hello'\n"
    check(flavour, source, expected)


def test_fork_while_the_loop_runs(flavour):
    source = """
    def child():
        assert asyncio._get_running_loop() is None
        print("child", run(talk()))

    async def main():
        print(await talk())
        print(in_child(child))
        assert asyncio.get_running_loop() is not None
        print(await talk())
        await asyncio.sleep(0.01)

    run(main())
    """
    check(flavour, source, "b'hello'\nchild b'hello'\n0\nb'hello'\n")


def test_child_of_a_child(flavour):
    source = """
    def grandchild():
        print("grandchild", run(talk()))

    def child():
        print("child", run(talk()))
        assert in_child(grandchild) == 0

    async def main():
        assert in_child(child) == 0
        print(await talk())

    run(main())
    """
    check(flavour, source, "child b'hello'\ngrandchild b'hello'\nb'hello'\n")


def test_fork_while_a_loop_sleeps_in_another_thread(flavour):
    source = """
    loop = new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    print(asyncio.run_coroutine_threadsafe(talk(), loop).result(10))
    time.sleep(0.05)
    print(in_child(lambda: print("child", run(talk()))))
    print(asyncio.run_coroutine_threadsafe(talk(), loop).result(10))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    """
    check(flavour, source, "b'hello'\nchild b'hello'\n0\nb'hello'\n")


def test_threads_of_the_pool_stay_with_the_parent(flavour):
    source = """
    async def work():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*[loop.run_in_executor(None, abs, -i) for i in range(20)])

    async def main():
        assert await work() == list(range(20))
        print(in_child(lambda: print("child", run(work()) == list(range(20)))))
        assert await work() == list(range(20))

    run(main())
    """
    check(flavour, source, "child True\n0\n")


def test_children_have_children_processes(flavour):
    source = """
    async def spawn():
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
        out, _ = await process.communicate(b"through cat")
        return out, process.returncode

    async def main():
        print(await spawn())
        assert in_child(lambda: print("child", run(spawn()))) == 0
        print(await spawn())

    run(main())
    """
    line = "(b'through cat', 0)\n"
    check(flavour, source, line + "child " + line + line)


# The following tests break the parent on asyncio, whose child modifies the parent's epoll.


@pytest.mark.only("ferroloop")
def test_the_parent_still_watches_what_a_child_drops(flavour):
    source = """
    import socket
    left, right = socket.socketpair()
    loop = new_event_loop()
    loop.add_reader(right, lambda: (print("read", right.recv(10)), loop.stop()))
    loop.add_writer(left, print, "never called")
    loop.remove_writer(left)

    def child():
        assert loop.remove_reader(right)
        assert not loop.remove_reader(right)
        loop.close()

    print(in_child(child))
    left.send(b"x")
    loop.call_later(10, loop.stop)
    loop.run_forever()
    loop.remove_reader(right)
    loop.close()
    """
    check(flavour, source, "0\nread b'x'\n")


@pytest.mark.only("ferroloop")
def test_an_inherited_loop_is_the_childs_own(flavour):
    source = """
    import socket
    left, right = socket.socketpair()
    mine, yours = socket.socketpair()
    loop = new_event_loop()
    seen = []
    loop.add_reader(right, lambda: (seen.append(right.recv(10)), loop.stop()))
    loop.run_until_complete(asyncio.sleep(0.001))

    def child():
        # Old registrations still work; new ones are not seen by the parent.
        left.send(b"child")
        loop.run_forever()
        loop.add_reader(yours, lambda: (seen.append(yours.recv(10)), loop.stop()))
        threading.Timer(0.05, loop.call_soon_threadsafe, [mine.send, b"x"]).start()
        loop.run_forever()
        assert seen == [b"child", b"x"], seen
        print("child", loop.run_until_complete(talk()))
        loop.close()

    print(in_child(child))
    left.send(b"parent")
    mine.send(b"unread")
    loop.run_forever()
    print(seen, loop.run_until_complete(talk()))
    loop.close()
    """
    check(flavour, source, "child b'hello'\n0\n[b'parent'] b'hello'\n")


# From 3.14 on the fork resets asyncio's current task: the child's loop cannot step tasks of any
# kind, on any loop.
@pytest.mark.only("ferroloop")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio forgets the loop in the child")
def test_a_child_continues_with_the_running_loop(flavour):
    source = """
    import socket

    async def main():
        pid = os.fork()
        left, right = socket.socketpair()
        # In the child the loop no longer counts as running: asyncio resets that.
        assert asyncio._get_running_loop() is (loop if pid else None)
        with left, right:
            woken = loop.create_future()
            loop.add_reader(right, lambda: woken.done() or woken.set_result(right.recv(10)))
            loop.call_later(0.01, left.send, b"parent" if pid else b"child")
            result = await woken
            loop.remove_reader(right)
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        print(result)

    loop = new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    """
    check(flavour, source, "b'child'\nb'parent'\n")


# The task that forked cannot be left in the child: the loop's exception handler is called.
@pytest.mark.skipif(sys.version_info < (3, 14), reason="the child's loop still counts as running")
def test_a_child_reports_that_its_task_cannot_be_left(flavour):
    source = """
    async def main():
        await asyncio.sleep(0.001)
        pid = os.fork()
        if pid:
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            return
        loop.set_exception_handler(report)
        await asyncio.sleep(0.01)

    def report(loop, context):
        print(context["message"].partition("(")[0], type(context["exception"]).__name__, flush=True)
        os._exit(7)

    loop = new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    """
    check(flavour, source, "Exception in callback Task.task_wakeup RuntimeError\n7\n")


@pytest.mark.only("ferroloop")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_does_not_wake_the_parent(flavour):
    source = """
    def count():
        found = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]":
                    with open(f"/proc/self/fdinfo/{fd}") as info:
                        found += [line for line in info if line.startswith("eventfd-count")]
            except FileNotFoundError:
                pass
        return found

    loop = new_event_loop()
    loop.run_until_complete(talk())
    before = count()
    assert before

    def child():
        for _ in range(3):
            loop.call_soon_threadsafe(print, "child")
            loop._write_to_self()
        loop.run_until_complete(talk())

    assert in_child(child) == 0
    print(count() == before)
    loop.close()
    """
    check(flavour, source, "child\n" * 3 + "True\n")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio notices forks since 3.12")
def test_signals_of_a_child_are_not_the_parents(flavour):
    source = """
    async def main():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, print, "parent's handler")
        pid = os.fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGUSR1)
            os._exit(3)
        status = os.waitpid(pid, 0)[1]
        await asyncio.sleep(0.05)
        print(os.waitstatus_to_exitcode(status))
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.05)

    run(main())
    """
    check(flavour, source, "3\nparent's handler\n")


def test_ctrl_c_in_a_child(flavour):
    source = """
    async def main():
        await asyncio.sleep(0.01)
        pid = os.fork()
        if not pid:
            try:
                run(asyncio.wait_for(idle(), 30))
            except KeyboardInterrupt:
                os._exit(7)
            os._exit(1)
        await asyncio.sleep(0.3)
        os.kill(pid, signal.SIGINT)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    async def idle():
        await asyncio.Event().wait()

    loop = new_event_loop()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(loop.run_until_complete(main()))
    loop.close()
    """
    check(flavour, source, "7\n")


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(flavour, method):
    source = f"""
    import multiprocessing
    from tests.support.processes import run_loop, talk_to_itself

    async def main():
        loop = asyncio.get_running_loop()
        first = await talk_to_itself()
        context = multiprocessing.get_context({method!r})
        receiver, sender = context.Pipe(duplex=False)
        processes = [
            context.Process(target=run_loop, args=({flavour.name!r}, sender)) for _ in range(3)
        ]
        for process in processes:
            process.start()
        results = [await loop.run_in_executor(None, receiver.recv) for _ in processes]
        for process in processes:
            await loop.run_in_executor(None, process.join)
        assert sorted(pid for pid, _ in results) == sorted(p.pid for p in processes)
        assert [p.exitcode for p in processes] == [0, 0, 0]
        print(set(result for _, result in results), await talk_to_itself() == first)

    if __name__ == "__main__":
        run(main())
    """
    check(flavour, source, "{b'hello WORLD'} True\n")


@pytest.mark.parametrize("loop_before", [False, True])
def test_pre_forking_server(flavour, loop_before):
    """The listening socket exists before the fork; the loops are created later, or have run."""
    source = f"""
    import socket
    from tests.support.processes import serve

    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    if {loop_before}:
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0.01))
    pids = []
    readable, ready = os.pipe()
    for _ in range(3):
        pid = os.fork()
        if not pid:
            serve({flavour.name!r}, listening, ready)
            os._exit(0)
        pids.append(pid)
    for _ in pids:
        os.read(readable, 1)
    print(listening.getsockname()[1], *pids)
    sys.stdin.readline()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
    """
    with Program(flavour, textwrap.dedent(source)) as program:
        port, *pids = map(int, program.process.stdout.readline().split())
        answers = [ask(port) for _ in range(60)]
        assert set(answers) <= set(pids)
        # When a worker is stopped, the others keep accepting.
        os.kill(pids[0], signal.SIGSTOP)
        assert {ask(port) for _ in range(20)} <= set(pids)
        os.kill(pids[0], signal.SIGCONT)
        program.process.stdin.write("end\n")
        program.process.stdin.flush()
        assert program.finish() == (0, "[0, 0, 0]\n", "")


def ask(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        return int(client.makefile().read())
