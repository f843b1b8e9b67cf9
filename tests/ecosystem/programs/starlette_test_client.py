"""Starlette's TestClient: the application runs on the loop in a thread, behind anyio's portal."""

import hashlib

from starlette.testclient import TestClient

from ..apps.asgi import CHUNK, app
from ..http_checks import BODY
from ..loops import Loop


def main(loop: Loop) -> None:
    options = {"loop_factory": loop.factory}
    with TestClient(app, backend="asyncio", backend_options=options) as client:
        for _ in range(20):
            who = client.get("/who").json()
            assert (who["loop"], who["started_on"]) == (loop.name, loop.name)
        answer = client.post("/digest", content=BODY).json()
        assert answer == {"sha256": hashlib.sha256(BODY).hexdigest(), "size": len(BODY)}
        assert client.get("/stream", params={"chunks": 20}).content == CHUNK * 20
        with client.websocket_connect("/echo") as websocket:
            for number in range(50):
                websocket.send_text(f"message {number}")
                assert websocket.receive_text() == f"message {number}"
            websocket.send_bytes(BODY)
            assert websocket.receive_bytes() == BODY
