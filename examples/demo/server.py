"""The aiohttp server under test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pages
from aiohttp import web


async def page(request: web.Request) -> web.Response:
    """An uncompressed page."""
    return web.Response(body=pages.body_of(int(request.match_info["number"])))


async def slow(request: web.Request) -> web.Response:
    """A page that takes far longer than the client waits."""
    await asyncio.sleep(30)
    return await page(request)


async def archive(request: web.Request) -> web.Response:
    """A compressed page; a thread of the loop's pool does the blocking work."""
    loop = asyncio.get_running_loop()
    number = int(request.match_info["number"])
    return web.Response(body=await loop.run_in_executor(None, pages.compressed, number))


async def submit(request: web.Request) -> web.Response:
    """Tell the client how many bytes it has sent."""
    return web.json_response({"received": len(await request.read())})


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Run the server on a free local port; yields its URL."""
    application = web.Application()
    application.add_routes(
        [
            web.get("/page/{number}", page),
            web.get("/slow/{number}", slow),
            web.get("/archive/{number}", archive),
            web.post("/submit", submit),
        ]
    )
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
