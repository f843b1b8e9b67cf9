"""A typed program that uses the whole public interface: `mypy --strict` must accept it."""

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import assert_type

import ferroloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def answer() -> int:
    return 42


async def main() -> str:
    loop = asyncio.get_running_loop()
    task = loop.create_task(answer(), name="answer")
    assert_type(await task, int)
    future: asyncio.Future[str] = loop.create_future()
    handle = loop.call_soon(future.set_result, "done")
    timer = loop.call_later(3600, print, "never")
    timer.cancel()
    assert not handle.cancelled()
    assert_type(await loop.run_in_executor(None, len, "four"), int)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"echo")
    assert await reader.readexactly(4) == b"echo"
    writer.close()
    await writer.wait_closed()
    server.close()
    return await future


async def messages() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ferroloop.EventLoop)
    sender, receiver = socket.socketpair()
    with sender, receiver:
        assert_type(await loop.sock_sendmsg(sender, [b"data"], [], 0), int)
        data, ancillary, _, _ = await loop.sock_recvmsg(receiver, 100, 100)
        assert_type(data, bytes)
        assert_type(ancillary, list[tuple[int, int, bytes]])
        await loop.sock_sendmsg(sender, [b"data"])
        length, _, _, _ = await loop.sock_recvmsg_into(receiver, [bytearray(10)])
        assert_type(length, int)


def by_hand() -> None:
    loop = ferroloop.new_event_loop()
    assert_type(loop, ferroloop.EventLoop)
    as_asyncio: asyncio.AbstractEventLoop = loop
    factory: Callable[[], asyncio.AbstractEventLoop] = ferroloop.EventLoop
    future: ferroloop.Future[int] = ferroloop.Future(loop=loop)
    future.set_result(1)
    task: ferroloop.Task[int] = ferroloop.Task(answer(), loop=loop)
    assert_type(as_asyncio.run_until_complete(future), int)
    assert_type(loop.run_until_complete(task), int)
    metrics = loop.metrics()
    assert_type(metrics.turns, int)
    loop.close()
    with asyncio.Runner(loop_factory=factory) as runner:
        assert_type(runner.run(answer()), int)


def by_policy() -> None:
    ferroloop.install()
    try:
        if sys.version_info < (3, 14):
            assert isinstance(asyncio.get_event_loop_policy(), ferroloop.EventLoopPolicy)
        assert_type(asyncio.run(answer()), int)
    finally:
        ferroloop.uninstall()


if __name__ == "__main__":
    with ferroloop.watch(0.5), ferroloop.name_blocking_calls(allow=["import"]):
        assert_type(ferroloop.run(main()), str)
        ferroloop.run(messages())
    by_hand()
    by_policy()
    print("ferroloop", ferroloop.__version__)
