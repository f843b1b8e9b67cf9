"""What a server of `apps/asgi.py` must answer."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import httpx
import websockets
from websockets.asyncio.client import connect

from .apps.asgi import CHUNK

BODY = b"0123456789abcdef" * 65536


async def check_requests(client: httpx.AsyncClient, loop_name: str) -> set[int]:
    """Requests in parallel, a streamed upload, a streamed download; returns the servers' PIDs."""
    answers = await asyncio.gather(*(client.get("/who") for _ in range(60)))
    whos = [answer.raise_for_status().json() for answer in answers]
    assert {(who["loop"], who["started_on"]) for who in whos} == {(loop_name, loop_name)}

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(BODY), 65536):
            yield BODY[start : start + 65536]

    uploads = await asyncio.gather(*(client.post("/digest", content=body()) for _ in range(4)))
    expected = {"sha256": hashlib.sha256(BODY).hexdigest(), "size": len(BODY)}
    assert [upload.json() for upload in uploads] == [expected] * 4

    async with client.stream("GET", "/stream", params={"chunks": 100}) as response:
        received = b"".join([chunk async for chunk in response.aiter_bytes()])
    assert received == CHUNK * 100
    assert (await client.get("/nowhere")).status_code == 404
    return {who["pid"] for who in whos}


async def check_websockets(url: str, **options) -> None:
    """Messages of several sizes on several connections at once, and an orderly shutdown."""

    async def talk(number: int) -> None:
        async with connect(url, max_size=None, **options) as websocket:
            for size in (0, 1, 125, 126, 65535, 65536, 300_000):
                await websocket.send(bytes([number]) * size)
                assert await websocket.recv() == bytes([number]) * size
            text = f"message {number} \N{SNOWMAN}"
            await websocket.send(text)
            assert await websocket.recv() == text
        assert websocket.close_code == websockets.CloseCode.NORMAL_CLOSURE

    await asyncio.gather(*map(talk, range(8)))
