"""uvicorn --loop --workers 3: requests spread over the workers, a killed worker is replaced."""

import os
import signal
import sys
import time

import httpx

from ..http_checks import check_requests
from ..loops import Loop
from ..servers import SECONDS, free_port, serving


async def workers_seen(loop: Loop, origin: str) -> set[int]:
    async with httpx.AsyncClient(base_url=origin) as client:
        return await check_requests(client, loop.name)


def main(loop: Loop) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.ecosystem.apps.asgi:app"]
    command += ["--loop", loop.path, "--port", str(port), "--log-level", "critical"]
    with serving([*command, "--workers", "3"], ("127.0.0.1", port), statuses=(0, -15)) as server:
        seen: set[int] = set()
        end = time.monotonic() + SECONDS
        while len(seen) < 3 and time.monotonic() < end:
            seen |= loop.run(workers_seen(loop, f"http://127.0.0.1:{port}"))
        assert len(seen) == 3
        assert server.pid not in seen
        os.kill(min(seen), signal.SIGKILL)
        replaced = set(seen)
        while len(replaced) < 4 and time.monotonic() < end:
            try:
                replaced |= loop.run(workers_seen(loop, f"http://127.0.0.1:{port}"))
            except httpx.TransportError:  # a connection that the killed worker had accepted
                continue
        assert len(replaced) == 4
