"""An ASGI application: server identity, request digests, streams and a WebSocket."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..loops import running

CHUNK = bytes(range(256)) * 64


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.started_on = running()
    await asyncio.sleep(0)
    yield


async def who(request: Request) -> JSONResponse:
    # Long enough for a second worker to get some of the concurrent requests.
    await asyncio.sleep(0.01)
    return JSONResponse(
        {"loop": running(), "started_on": request.app.state.started_on, "pid": os.getpid()}
    )


async def digest(request: Request) -> JSONResponse:
    sha, size = hashlib.sha256(), 0
    async for chunk in request.stream():
        sha.update(chunk)
        size += len(chunk)
    return JSONResponse({"sha256": sha.hexdigest(), "size": size})


async def stream(request: Request) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(int(request.query_params["chunks"])):
            yield CHUNK
            await asyncio.sleep(0)

    return StreamingResponse(chunks())


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                break
            if message.get("bytes") is not None:
                await websocket.send_bytes(message["bytes"])
            else:
                await websocket.send_text(message["text"])


app = Starlette(
    routes=[
        Route("/who", who),
        Route("/digest", digest, methods=["POST"]),
        Route("/stream", stream),
        WebSocketRoute("/echo", echo),
    ],
    lifespan=lifespan,
)
