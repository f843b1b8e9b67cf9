"""Calls that the system or a sandbox refuses: each program continues, or gets an error, as on
asyncio."""

import sys
import textwrap

import pytest

from ..refused import faults
from ..support.programs import run_program

pytestmark = [
    pytest.mark.mode("plain"),
    pytest.mark.skipif(sys.platform != "linux", reason="Linux's calls"),
]

PROLOGUE = """
import contextlib, errno, resource, socket
from tests.refused.faults import Faults

def run(main):
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)

@contextlib.contextmanager
def no_descriptor_left():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    fillers = []
    with contextlib.suppress(OSError):
        while True:
            fillers.append(os.dup(0))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)
"""


@pytest.fixture
def program(flavour, monkeypatch):
    """Runs a script with the library that makes calls fail; returns its output."""
    library = faults.build()
    if library is None:
        pytest.skip("there is no C compiler")
    monkeypatch.setenv(faults.PRELOAD, faults.preload(library))

    def run(source, errors=""):
        # From 3.12 on a fork in a process with threads emits a warning.
        options = ("-W", "ignore::DeprecationWarning")
        script = PROLOGUE + textwrap.dedent(source)
        status, out, printed = run_program(flavour, script, *options)
        assert (status, printed) == (0, errors), printed
        return out

    return run


# --- signals -----------------------------------------------------------------------------------

REFUSED_WATCH = """
async def main():
    loop = asyncio.get_running_loop()
    faults = Faults()
    faults.arm("epoll_add", errno.{error})
    for _ in range(3):
        await asyncio.sleep(0.01)
    signal.signal(signal.SIGUSR1, lambda *_: print("Python's handler"))
    thread = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    thread.start()
    await asyncio.sleep(0.2)
    thread.join()
    faults.disarm()
    await asyncio.sleep(0.01)
    print("slept")

run(main())
"""


def warning_of_the_pipe(flavour, error):
    return (
        f"the pipe for signals is not watched error={error}\n" if flavour.name != "asyncio" else ""
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("ENOSPC", "No space left on device (os error 28)"),
        ("ENOMEM", "Cannot allocate memory (os error 12)"),
    ],
)
def test_a_loop_sleeps_when_no_more_descriptors_can_be_watched(flavour, program, error, text):
    """ENOSPC is the user's quota of watched descriptors."""
    out = program(REFUSED_WATCH.format(error=error), warning_of_the_pipe(flavour, text))
    assert out == "Python's handler\nslept\n"


def test_signal_handlers_when_no_more_descriptors_can_be_watched(flavour, program):
    source = """
    async def main():
        loop = asyncio.get_running_loop()
        faults = Faults()
        faults.arm("epoll_add", errno.ENOSPC)
        heard = []
        loop.add_signal_handler(signal.SIGUSR1, heard.append, "idle")
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.01)
        # In a loop that is always busy, too.
        loop.add_signal_handler(signal.SIGUSR1, heard.append, "busy")
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(100):
            await asyncio.sleep(0)
        used = time.process_time()
        await asyncio.sleep(0.2)
        print(heard, time.process_time() - used < 0.1)
        faults.disarm()
        loop.remove_signal_handler(signal.SIGUSR1)

    run(main())
    """
    text = "No space left on device (os error 28)"
    out = program(source, warning_of_the_pipe(flavour, text))
    assert out == "['idle', 'busy'] True\n"


@pytest.mark.only("ferroloop")  # asyncio has no such race
def test_a_signal_just_before_a_sleep_without_the_pipe_watched(flavour, program):
    """The loop reads its clock last before it sleeps; this clock is C code that raises a signal."""
    source = """
    import ctypes, functools
    seen = []

    def handler(*_):
        seen.append(1)
        loop.call_soon_threadsafe(loop.stop if len(seen) == 20 else int)

    signal.signal(signal.SIGUSR1, handler)
    loop = new_event_loop()
    Faults().arm("epoll_add", errno.ENOSPC)
    loop.call_later(1000, print, "late")
    loop.time = functools.partial(ctypes.CDLL(None)["raise"], signal.SIGUSR1)
    loop.run_forever()
    loop.close()
    print(len(seen) >= 20)
    """
    text = "No space left on device (os error 28)"
    assert program(source, warning_of_the_pipe(flavour, text)) == "True\n"


def test_signal_handlers_need_no_descriptor(program):
    source = """
    async def main():
        loop = asyncio.get_running_loop()
        with no_descriptor_left():
            loop.add_signal_handler(signal.SIGUSR1, print, "signal")
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
        loop.remove_signal_handler(signal.SIGUSR1)

    run(main())
    """
    assert program(source) == "signal\n"


@pytest.mark.only("ferroloop")  # asyncio's half-initialised loop cannot be deleted
def test_no_descriptor_for_a_loop(program):
    source = """
    with no_descriptor_left():
        try:
            new_event_loop()
        except OSError as error:
            print(error.errno == errno.EMFILE)
    print(run(asyncio.sleep(0.01, "slept")))
    """
    assert program(source) == "True\nslept\n"


@pytest.mark.only("ferroloop")  # asyncio forgets the loop in the child from 3.12 on
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio forgets the loop in the child")
def test_a_child_without_descriptors_continues_with_the_loop(program):
    source = """
    async def main():
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(2)]
        await asyncio.sleep(0.01)
        with no_descriptor_left():
            pid = os.fork()
            left, right = pairs[bool(pid)]
            woken = loop.create_future()
            loop.add_reader(right, lambda: woken.done() or woken.set_result(right.recv(10)))
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(int,))
            loop.call_later(0.01, left.send, b"parent" if pid else b"child")
            if not pid:
                thread.start()
            result = await woken
        loop.remove_reader(right)
        for end in [*pairs[0], *pairs[1]]:
            end.close()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        else:
            thread.join()
        print(result)

    loop = new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    """
    assert program(source) == "b'child'\nb'parent'\n"


# --- children ----------------------------------------------------------------------------------


@pytest.mark.only("ferroloop")  # asyncio checks only once whether process descriptors are available
@pytest.mark.parametrize("call", ["waitid", "pidfd_open", "epoll_add"])
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "ENOSPC"])
def test_children_that_cannot_be_watched(program, call, error):
    """The first two errors are typical of a sandbox's filter."""
    source = f"""
    async def main():
        await asyncio.sleep(0.01)
        Faults().arm({call!r}, errno.{error}, caller="_ferroloop")
        for code in (0, 3):
            process = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {{code}}")
            print(await process.wait())
            await asyncio.sleep(0.01)
            print(os.path.exists(f"/proc/{{process.pid}}"))

    run(main())
    """
    assert program(source) == "0\nFalse\n3\nFalse\n"


@pytest.mark.only("ferroloop")  # asyncio waits forever
def test_an_exit_status_that_cannot_be_read(program):
    source = """
    async def main():
        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        faults = Faults()
        faults.arm("wait*", errno.EPERM, caller="_ferroloop")
        process = await asyncio.create_subprocess_exec("/bin/true")
        print(await process.wait())
        faults.disarm()
        (context,) = reported
        assert f"child process pid {process.pid} cannot be read" in context["message"]
        print(repr(context["exception"]))
        os.waitpid(process.pid, 0)

    run(main())
    """
    expected = "255\nPermissionError(1, 'Operation not permitted')\n"
    assert program(source) == expected


@pytest.mark.only("ferroloop")  # asyncio's thread already exists, or it hangs
def test_neither_a_process_descriptor_nor_a_thread(program):
    """The child, which is already running, is killed, and the caller gets an error."""
    source = """
    async def main():
        faults = Faults()
        faults.arm("pidfd_open", errno.ENOSYS)
        # Python's threads begin with it.
        start = threading.Thread.start
        threading.Thread.start = fail
        try:
            await asyncio.create_subprocess_exec("/bin/sleep", "100")
        except RuntimeError as error:
            print(error)
        threading.Thread.start = start
        faults.disarm()

    def fail(thread):
        raise RuntimeError("can't start new thread")

    run(main())
    print(os.waitstatus_to_exitcode(os.wait()[1]))
    """
    assert program(source) == "can't start new thread\n-9\n"


@pytest.mark.only("ferroloop")  # asyncio waits forever
@pytest.mark.parametrize("which", [1, 2])
def test_a_child_whose_pipe_cannot_be_used(program, which):
    """The child is killed, and the caller gets an error."""
    source = f"""
    from asyncio.subprocess import PIPE

    async def main():
        await asyncio.sleep(0.01)
        before = set(os.listdir("/proc/self/fd"))
        Faults().arm("fcntl", errno.EINVAL, {which}, limit=1, caller="_ferroloop")
        try:
            await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        except OSError as error:
            print(error)
        await asyncio.sleep(0.01)
        print(set(os.listdir("/proc/self/fd")) == before)

    run(main())
    try:
        os.wait()
    except ChildProcessError:
        print("no child")
    """
    assert program(source) == "[Errno 22] Invalid argument\nTrue\nno child\n"


def test_partial_reads_of_a_childs_report(program):
    """Without vfork() the parent reads while the child is still writing."""
    source = """
    import subprocess
    subprocess._USE_VFORK = False

    async def main():
        found = set()
        for _ in range(60):
            try:
                await asyncio.create_subprocess_exec("/nonexistent/program")
            except Exception as error:
                found.add(repr(error))
        print(found)

    run(main())
    """
    expected = """{"FileNotFoundError(2, 'No such file or directory')"}\n"""
    assert program(source) == expected


# --- accepting ---------------------------------------------------------------------------------


def test_a_kernel_without_accept4(program):
    source = """
    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    async def main():
        loop = asyncio.get_running_loop()
        Faults().arm("accept4", errno.ENOSYS)
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\\n")
        print(await asyncio.wait_for(reader.read(), 10))
        writer.close()
        server.close()
        await server.wait_closed()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            with socket.create_connection(listener.getsockname()):
                accepted, _ = await asyncio.wait_for(loop.sock_accept(listener), 10)
                with accepted:
                    print(accepted.getblocking(), accepted.get_inheritable())

    run(main())
    """
    assert program(source) == "b'hello\\n'\nFalse False\n"


@pytest.mark.only("ferroloop")  # asyncio's server ends
def test_a_paused_server_resumes_when_descriptors_are_available(program):
    source = """
    import asyncio.constants
    asyncio.constants.ACCEPT_RETRY_DELAY = 0.02

    async def serve(reader, writer):
        writer.write(b"hello")
        writer.close()

    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        faults = Faults()
        faults.arm("accept4", errno.ENOMEM)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.settimeout(10)
            while not reported:
                await asyncio.sleep(0.001)
            faults.disarm()
            faults.arm("epoll_add", errno.ENOSPC)
            await asyncio.sleep(0.1)
            faults.disarm()
            print(await asyncio.to_thread(client.recv, 10))
        errors = {context["exception"].errno for context in reported}
        print(errors == {errno.ENOMEM, errno.ENOSPC})
        server.close()
        await server.wait_closed()

    run(main())
    """
    assert program(source) == "b'hello'\nTrue\n"


# --- datagrams ---------------------------------------------------------------------------------

SEGMENTS = """
class Protocol(asyncio.DatagramProtocol):
    def datagrams_received(self, datagrams, address):
        received.extend(datagrams)

    def error_received(self, error):
        print(errno.errorcode[error.errno])

    def pause_writing(self):
        print("paused")

    def resume_writing(self):
        print("resumed")

async def main():
    loop = asyncio.get_running_loop()
    own = ("127.0.0.1", 0)
    receiver, _ = await loop.create_datagram_endpoint(Protocol, local_addr=own)
    name = receiver.get_extra_info("sockname")
    sender, _ = await loop.create_datagram_endpoint(Protocol, remote_addr=name)
    sender.set_write_buffer_limits(high=100)
    faults = Faults()
    if {queued}:
        faults.arm("send", errno.EAGAIN, limit=1)
        sender.sendto(b"first")
    faults.arm("sendmsg", errno.{error}, limit=1)
    for letters in (b"abc", b"def"):
        data = b"".join(bytes([letter]) * 100 for letter in letters)
        sender.send_segments(data[:250], 100)
    await asyncio.sleep(0.1)
    print(faults.seen()["sendmsg"], faults.disarm())
    print(*(piece[:1].decode() + str(len(piece)) for piece in received))
    assert sender.get_write_buffer_size() == 0
    sender.close()
    receiver.close()
    await asyncio.sleep(0.01)

received = []
run(main())
"""


@pytest.mark.only("ferroloop")
@pytest.mark.parametrize(
    ("error", "queued", "printed"),
    [
        ("EIO", False, "1 1"),
        ("EINVAL", False, "2 1"),
        ("EAGAIN", False, "paused resumed 3 1"),
        ("ENOBUFS", False, "ENOBUFS 2 1"),
        ("EIO", True, "paused resumed 2 1"),
        ("EINVAL", True, "paused resumed 2 1"),
        ("EAGAIN", True, "paused resumed 3 1"),
        ("ENOBUFS", True, "paused ENOBUFS resumed 2 1"),
    ],
)
def test_segments_that_the_system_refuses(program, error, queued, printed):
    """Where a device cannot segment, the datagrams are sent one by one; other errors concern all of
    them."""
    found = program(SEGMENTS.format(error=error, queued=queued)).split()
    arrived = ["a100", "b100", "c50"] if error != "ENOBUFS" else []
    first = ["f5"] if queued else []
    assert found == [*printed.split(), *first, *arrived, "d100", "e100", "f50"]
