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
