"""Tornado: HTTP server and client, WebSockets, its own streams, timers, executors."""

import asyncio
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpclient import TCPClient
from tornado.tcpserver import TCPServer
from tornado.web import Application, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler, websocket_connect

from ..certificates import Certificates, certificates
from ..expected import expected
from ..loops import Loop, running
from ..servers import free_port

BODY = b"0123456789abcdef" * 131_072


class Who(RequestHandler):
    async def get(self) -> None:
        await asyncio.sleep(0.01)
        self.write({"loop": running()})


@stream_request_body
class Digest(RequestHandler):
    def prepare(self) -> None:
        self.sha = hashlib.sha256()

    def data_received(self, chunk: bytes) -> None:
        self.sha.update(chunk)

    def post(self) -> None:
        self.write(self.sha.hexdigest())


class Chunks(RequestHandler):
    async def get(self) -> None:
        for _ in range(100):
            self.write(BODY[:10_000])
            await self.flush()


class Never(RequestHandler):
    async def get(self) -> None:
        await asyncio.sleep(1)


class Echo(WebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


class Lines(TCPServer):
    async def handle_stream(self, stream: IOStream, address) -> None:
        try:
            while True:
                await stream.write((await stream.read_until(b"\n")).upper())
        except StreamClosedError:
            pass


async def check_requests(origin: str, tls: Certificates, loop: Loop) -> None:
    client = AsyncHTTPClient(force_instance=True)
    options = {"ssl_options": tls.client()}
    urls = [HTTPRequest(f"{origin}/who", **options) for _ in range(40)]
    answers = await asyncio.gather(*map(client.fetch, urls))
    assert [json.loads(answer.body)["loop"] for answer in answers] == [loop.name] * 40
    post = HTTPRequest(f"{origin}/digest", method="POST", body=BODY, **options)
    assert (await client.fetch(post)).body.decode() == hashlib.sha256(BODY).hexdigest()
    answer = await client.fetch(HTTPRequest(f"{origin}/chunks", **options))
    assert answer.body == BODY[:10_000] * 100
    with expected(HTTPClientError) as failed:
        await client.fetch(HTTPRequest(f"{origin}/never", request_timeout=0.1, **options))
    assert failed.error.code == 599
    client.close()


async def check_websocket(url: str, tls: Certificates) -> None:
    connection = await websocket_connect(HTTPRequest(url, ssl_options=tls.client()))
    for size in (0, 125, 126, 65_536, 300_000):
        await connection.write_message(BODY[:size], binary=True)
        assert await connection.read_message() == BODY[:size]
    connection.close()
    assert await connection.read_message() is None


async def check_streams() -> None:
    server = Lines()
    server.listen(0, "127.0.0.1")
    (port,) = {sock.getsockname()[1] for sock in server._sockets.values()}
    streams = [await TCPClient().connect("127.0.0.1", port) for _ in range(10)]
    for number, stream in enumerate(streams):
        await stream.write(b"x" * 100_000 + b"line %d\n" % number)
    for number, stream in enumerate(streams):
        assert (await stream.read_until(b"\n")).endswith(b"LINE %d\n" % number)
        stream.close()
    server.stop()
    await asyncio.sleep(0.05)


async def check_loop() -> None:
    loop = IOLoop.current()
    ticks: list[float] = []
    periodic = PeriodicCallback(lambda: ticks.append(loop.time()), 5)
    periodic.start()
    with ThreadPoolExecutor(2) as pool:
        assert await loop.run_in_executor(pool, sum, (1, 2, 3)) == 6
    done = asyncio.Event()
    loop.add_callback(loop.call_later, 0.05, done.set)
    await done.wait()
    periodic.stop()
    assert len(ticks) >= 3


async def check(loop: Loop, tls: Certificates) -> None:
    handlers = [("/who", Who), ("/digest", Digest), ("/chunks", Chunks), ("/never", Never)]
    application = Application([*handlers, ("/echo", Echo)], log_function=lambda handler: None)
    for scheme, context in (("http", None), ("https", tls.server())):
        port = free_port()
        server = HTTPServer(application, ssl_options=context)
        server.listen(port, "127.0.0.1")
        await check_requests(f"{scheme}://localhost:{port}", tls, loop)
        url = f"{scheme.replace('http', 'ws')}://localhost:{port}/echo"
        await check_websocket(url, tls)
        server.stop()
        await server.close_all_connections()
    await check_streams()
    await check_loop()


def main(loop: Loop) -> None:
    with certificates() as tls:
        loop.run(check(loop, tls))
