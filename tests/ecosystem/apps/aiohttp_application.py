"""An aiohttp application: server identity, streams, files, a WebSocket; also runnable directly."""

import asyncio
import hashlib
import sys
from pathlib import Path

from aiohttp import WSMsgType, web

from ..loops import running

SLOW_SECONDS = 0.3
DIRECTORY = web.AppKey("directory", str)


async def who(request: web.Request) -> web.Response:
    return web.json_response({"loop": running(), "peer": bool(request.transport)})


async def digest(request: web.Request) -> web.Response:
    sha = hashlib.sha256()
    async for chunk in request.content.iter_any():
        sha.update(chunk)
    return web.json_response({"sha256": sha.hexdigest()})


async def count(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(int(request.query["to"])):
        await response.write(b"%d\n" % number)
    await response.write_eof()
    return response


async def slow(request: web.Request) -> web.Response:
    await asyncio.sleep(SLOW_SECONDS)
    return web.Response(text="finished")


async def file(request: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(request.app[DIRECTORY], request.match_info["name"]))


async def echo(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(heartbeat=5)
    await websocket.prepare(request)
    async for message in websocket:
        if message.type == WSMsgType.TEXT:
            await websocket.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await websocket.send_bytes(message.data)
    return websocket


def make(directory: str = "") -> web.Application:
    """The application; `/file/...` serves files from `directory`."""
    app = web.Application(client_max_size=1 << 24)
    app[DIRECTORY] = directory
    app.router.add_get("/who", who)
    app.router.add_post("/digest", digest)
    app.router.add_get("/count", count)
    app.router.add_get("/slow", slow)
    app.router.add_get("/file/{name}", file)
    app.router.add_get("/echo", echo)
    return app


if __name__ == "__main__":
    web.run_app(make(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
