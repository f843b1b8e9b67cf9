"""Server processes on free ports of the loopback interface."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 30


def free_port() -> int:
    """A port that no socket is listening on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def answers(address: tuple[str, int] | str) -> bool:
    """Whether a server accepts connections on a port or on a UNIX socket's path."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(SECONDS)
        return probe.connect_ex(address) == 0


def stop(process: subprocess.Popen, signum: int = signal.SIGTERM) -> int:
    """Stop a process and everything it has started in its session; return its status."""
    try:
        process.send_signal(signum)
        return process.wait(SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def serving(
    command: Sequence[str | Path],
    address: tuple[str, int] | str,
    *,
    statuses: Sequence[int] = (0,),
    end: int = signal.SIGTERM,
    quiet: bool = False,
    ready: Callable[[], bool] = lambda: True,
    **options,
) -> Iterator[subprocess.Popen]:
    """A server that runs until the block ends; it must exit cleanly on a signal.

    The block starts when the server answers at the address and `ready` returns true.
    It inherits standard error, where any output is a failure, unless `quiet`.
    """
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), *sys.path])))
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
        env=environment,
        start_new_session=True,
        **options,
    )
    try:
        latest = time.monotonic() + SECONDS
        while not (answers(address) and ready()):
            assert process.poll() is None, f"the server ended with status {process.returncode}"
            assert time.monotonic() < latest, "the server does not answer"
            time.sleep(0.02)
        yield process
    except BaseException:
        stop(process)
        raise
    status = stop(process, end)
    assert status in statuses, f"the server ended with status {status}"
