"""hypercorn: HTTP/1.1, HTTP/2 over TLS, WebSockets on both sockets; server and client in one."""

import asyncio

import httpx
from hypercorn.asyncio import serve
from hypercorn.config import Config

from ..apps.asgi import app
from ..certificates import Certificates, certificates
from ..http_checks import check_requests, check_websockets
from ..loops import Loop
from ..servers import free_port


async def check(loop: Loop, tls: Certificates) -> None:
    plain, secure = free_port(), free_port()
    config = Config()
    config.bind = [f"127.0.0.1:{secure}"]
    config.insecure_bind = [f"127.0.0.1:{plain}"]
    config.certfile, config.keyfile = str(tls.chain), str(tls.key)
    config.graceful_timeout = 5
    config.loglevel = "WARNING"
    stop = asyncio.Event()
    server = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    await asyncio.sleep(0.2)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{plain}") as client:
        await check_requests(client, loop.name)
    await check_websockets(f"ws://127.0.0.1:{plain}/echo")
    origin = f"https://localhost:{secure}"
    async with httpx.AsyncClient(base_url=origin, verify=tls.client(), http2=True) as client:
        assert (await client.get("/who")).http_version == "HTTP/2"
        await check_requests(client, loop.name)
    await check_websockets(f"wss://localhost:{secure}/echo", ssl=tls.client())
    stop.set()
    await asyncio.wait_for(server, 20)


def main(loop: Loop) -> None:
    with certificates() as tls:
        loop.run(check(loop, tls))
