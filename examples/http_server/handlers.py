"""The server's handlers: coroutine functions that Rust calls."""

import asyncio
from collections import Counter

visits: Counter[str] = Counter()


async def handle(method: str, path: str, body: bytes) -> tuple[str, bytes]:
    """Answer a request with a status line and a body."""
    visits[path] += 1
    match method, path:
        case "GET", "/":
            return "200 OK", b"hello from Python\n"
        case "GET", "/slow":
            # Other connections are served meanwhile.
            await asyncio.sleep(0.2)
            return "200 OK", b"slow\n"
        case "GET", "/visits":
            return "200 OK", "".join(f"{p} {n}\n" for p, n in sorted(visits.items())).encode()
        case "POST", "/reverse":
            return "200 OK", body[::-1]
        case "GET", "/broken":
            raise RuntimeError("this handler is broken")
    return "404 Not Found", b"no such page\n"
