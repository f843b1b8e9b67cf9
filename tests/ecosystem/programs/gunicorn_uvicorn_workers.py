"""gunicorn with uvicorn workers: forked from a preloaded application, replaced on SIGHUP."""

import signal
import sys
import time

import httpx

from ..http_checks import check_requests, check_websockets
from ..loops import Loop
from ..servers import SECONDS, free_port, serving


async def workers_seen(loop: Loop, port: int) -> set[int]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        return await check_requests(client, loop.name)


def see_workers(loop: Loop, port: int, count: int) -> set[int]:
    """Send requests until `count` different processes have answered."""
    seen: set[int] = set()
    end = time.monotonic() + SECONDS
    while len(seen) < count and time.monotonic() < end:
        seen |= loop.run(workers_seen(loop, port))
    assert len(seen) == count
    return seen


def main(loop: Loop) -> None:
    port = free_port()
    worker = f"tests.ecosystem.apps.gunicorn_workers.{loop.name.capitalize()}Worker"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--log-level", "error"]
    command += ["--workers", "2", "--worker-class", worker, "--bind", f"127.0.0.1:{port}"]
    # No control socket: it would be created in the user's home directory.
    command += ["--no-control-socket", "tests.ecosystem.apps.asgi:app"]
    with serving(command, ("127.0.0.1", port)) as server:
        before = see_workers(loop, port, 2)
        loop.run(check_websockets(f"ws://127.0.0.1:{port}/echo"))
        server.send_signal(signal.SIGHUP)
        end = time.monotonic() + SECONDS
        after = before
        while after & before and time.monotonic() < end:
            try:
                after = see_workers(loop, port, 2)
            except (
                httpx.TransportError,
                AssertionError,
            ):  # both old and new workers answer
                continue
        assert not after & before
