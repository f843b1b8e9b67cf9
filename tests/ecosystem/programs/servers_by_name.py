"""The commands of docs/SERVERS.md: each server answers from the loop that its command asks for."""

import json
import os
import sys
import tempfile
import urllib.request

from ..loops import Loop
from ..servers import free_port, serving

ASGI = "tests.ecosystem.apps.asgi:app"
AIOHTTP = "tests.ecosystem.apps.aiohttp_application:make"


def commands(loop: Loop, port: int) -> dict[str, list[str]]:
    """The command line of each server."""
    ours = loop.name == "ferroloop"
    address = f"127.0.0.1:{port}"
    gunicorn = [sys.executable, "-m", "gunicorn", "--log-level", "error", "--workers", "2"]
    # No control socket: it would be created in the user's home directory.
    gunicorn += ["--no-control-socket", "--bind", address, "--worker-class"]
    workers = {
        "UvicornWorker": "tests.ecosystem.apps.gunicorn_workers.AsyncioWorker",
        "AsgiWorker": "asgi",
        "AiohttpWorker": "aiohttp.GunicornWebWorker",
    }
    uvicorn, asgi, aiohttp = (
        f"ferroloop.gunicorn.{name}" if ours else theirs for name, theirs in workers.items()
    )
    on_loop = [*loop.interpreter, "-m"]
    # granian may not end if the signal comes while one of several workers starts.
    granian = ["granian", "--interface", "asgi", "--loop", "asyncio", "--workers", "1"]
    granian += ["--log-level", "critical", "--port", str(port), ASGI]
    hypercorn = ["hypercorn", "--workers", "0", "--log-level", "critical", "--bind", address, ASGI]
    return {
        "gunicorn, uvicorn": [*gunicorn, uvicorn, ASGI],
        "gunicorn, its own": [*gunicorn, asgi, "--asgi-loop", "asyncio", ASGI],
        "gunicorn, aiohttp": [*gunicorn, aiohttp, f"{AIOHTTP}()"],
        "hypercorn": [*on_loop, *hypercorn],
        "granian": [*on_loop, *granian],
        "aiohttp.web": [*on_loop, "aiohttp.web", "-H", "127.0.0.1", "-P", str(port), AIOHTTP],
    }


def main(loop: Loop) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOME"] = home
        for name in commands(loop, 0):
            port = free_port()
            # `python -m aiohttp.web` logs each request.
            quiet = name == "aiohttp.web"
            with serving(commands(loop, port)[name], ("127.0.0.1", port), quiet=quiet):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/who", timeout=20) as answer:
                    assert json.load(answer)["loop"] == loop.name, name
