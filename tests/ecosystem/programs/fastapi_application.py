"""FastAPI on uvicorn: dependencies, handlers in threads, background tasks, uploads, WebSockets."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import uvicorn
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, UploadFile, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from websockets.asyncio.client import connect

from ..loops import Loop, running
from ..servers import free_port

app = FastAPI()
events: list[str] = []


class Item(BaseModel):
    name: str
    price: float


async def session() -> AsyncIterator[str]:
    events.append("opened")
    await asyncio.sleep(0)
    try:
        yield "session"
    finally:
        events.append("closed")


@app.post("/items/{number}")
async def create(number: int, item: Item, used: Annotated[str, Depends(session)]) -> dict:
    if number == 13:
        raise HTTPException(409, "unlucky")
    return {"number": number, "item": item, "session": used, "loop": running()}


@app.get("/thread")
def in_thread() -> dict:
    return {"main": threading.current_thread() is threading.main_thread()}


@app.post("/later")
async def later(text: str, tasks: BackgroundTasks) -> dict:
    tasks.add_task(events.append, text)
    return {}


@app.post("/upload")
async def upload(file: UploadFile) -> dict:
    return {"name": file.filename, "size": len(await file.read())}


@app.get("/events")
async def server_sent() -> StreamingResponse:
    async def produce() -> AsyncIterator[str]:
        for number in range(50):
            yield f"data: {number}\n\n"
            await asyncio.sleep(0.001)

    return StreamingResponse(produce(), media_type="text/event-stream")


@app.websocket("/sum")
async def add(websocket: WebSocket) -> None:
    await websocket.accept()
    total = 0
    async for number in websocket.iter_json():
        total += number
        await websocket.send_json({"total": total})


async def check_items(client: httpx.AsyncClient, loop: Loop) -> None:
    body = {"name": "kettle", "price": 12.5}
    calls = (client.post(f"/items/{number}", json=body) for number in range(40))
    answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * 13 + [409] + [200] * 26
    expected = {"number": 7, "item": body, "session": "session", "loop": loop.name}
    assert answers[7].json() == expected
    assert (await client.post("/items/1", json={"name": "kettle"})).status_code == 422
    assert events.count("opened") == events.count("closed") >= 40


async def check(loop: Loop) -> None:
    port = free_port()
    config = uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await check_items(client, loop)
        answers = await asyncio.gather(*(client.get("/thread") for _ in range(50)))
        assert [answer.json() for answer in answers] == [{"main": False}] * 50
        await client.post("/later", params={"text": "background"})
        # The task runs after the answer was sent.
        async with asyncio.timeout(20):
            while "background" not in events:
                await asyncio.sleep(0.01)
        files = {"file": ("large.bin", b"x" * 3_000_000)}
        uploaded = (await client.post("/upload", files=files)).json()
        assert uploaded == {"name": "large.bin", "size": 3_000_000}
        async with client.stream("GET", "/events") as response:
            lines = [line async for line in response.aiter_lines() if line]
        assert lines == [f"data: {number}" for number in range(50)]
    async with connect(f"ws://127.0.0.1:{port}/sum") as websocket:
        for number in ("1", "2", "3"):
            await websocket.send(number)
        assert [await websocket.recv() for _ in range(3)][-1] == '{"total":6}'
    server.should_exit = True
    await asyncio.wait_for(serving, 20)


def main(loop: Loop) -> None:
    loop.run(check(loop))
