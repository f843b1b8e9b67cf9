"""What a system or a sandbox may refuse: each program goes on, or is told, as on asyncio."""

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
    """Runs a script with the library that makes calls fail: what it prints."""
    library = faults.build()
    if library is None:
        pytest.skip("there is no C compiler")
    monkeypatch.setenv(faults.PRELOAD, library)

    def run(source, errors=""):
        # From 3.12 on a fork in a process with threads is warned about.
        options = ("-W", "ignore::DeprecationWarning")
        script = PROLOGUE + textwrap.dedent(source)
        status, out, printed = run_program(flavour, script, *options)
        assert (status, printed) == (0, errors), printed
        return out

    return run


# --- children ----------------------------------------------------------------------------------


@pytest.mark.only("ferroloop")  # asyncio asks once whether there are process descriptors
@pytest.mark.parametrize("call", ["waitid", "pidfd_open", "epoll_add"])
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "ENOSPC"])
def test_children_that_cannot_be_watched(program, call, error):
    """The first two are answers of a sandbox's filter."""
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


@pytest.mark.only("ferroloop")  # asyncio waits for ever
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


@pytest.mark.only("ferroloop")  # asyncio's thread is there already, or it hangs
def test_neither_a_process_descriptor_nor_a_thread(program):
    """The child, which runs already, is ended, and the caller is told."""
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


def test_reports_of_a_child_that_come_in_pieces(program):
    """Without vfork() the parent reads while the child still writes."""
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
