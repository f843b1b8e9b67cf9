"""uvicorn --loop, one worker: HTTP with httptools and with h11, WebSockets, TLS."""

import ssl
import sys
from pathlib import Path

import httpx

from ..certificates import certificates
from ..http_checks import check_requests, check_websockets
from ..loops import Loop
from ..servers import free_port, serving


async def check(loop: Loop, origin: str, context: ssl.SSLContext | None) -> None:
    async with httpx.AsyncClient(base_url=f"http{origin}", verify=context or True) as client:
        assert len(await check_requests(client, loop.name)) == 1
    await check_websockets(f"ws{origin}/echo", ssl=context)


def serve_and_check(loop: Loop, context: ssl.SSLContext | None, *options: str | Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.ecosystem.apps.asgi:app"]
    command += ["--loop", loop.path, "--port", str(port), "--log-level", "warning"]
    # uvicorn terminates itself with the signal that it received.
    with serving([*command, *options], ("127.0.0.1", port), statuses=(-15,)):
        loop.run(check(loop, f"{'s' if context else ''}://localhost:{port}", context))


def main(loop: Loop) -> None:
    serve_and_check(loop, None, "--http", "httptools")
    serve_and_check(loop, None, "--http", "h11")
    with certificates() as tls:
        files = ("--ssl-certfile", tls.chain, "--ssl-keyfile", tls.key)
        serve_and_check(loop, tls.client(), *files)
