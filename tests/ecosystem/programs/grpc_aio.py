"""grpc.aio: the four kinds of call, deadlines, cancellation, metadata, errors."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from ..expected import expected
from ..loops import Loop, running

SERVICE = "eco.Echo"


class Echo(grpc.GenericRpcHandler):
    """Methods on bytes, without generated code."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Down": grpc.unary_stream_rpc_method_handler(self.down),
            "Up": grpc.stream_unary_rpc_method_handler(self.up),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Never": grpc.unary_unary_rpc_method_handler(self.never),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
        }

    def service(self, details: grpc.HandlerCallDetails):
        return self.kinds.get(details.method.removeprefix(f"/{SERVICE}/"))

    async def unary(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        asked = dict(context.invocation_metadata() or ())
        await context.send_initial_metadata((("answer-to", asked["question"]),))
        context.set_trailing_metadata((("loop", running()),))
        return request[::-1]

    async def down(self, request: bytes, context) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def up(self, requests: AsyncIterator[bytes], context) -> bytes:
        return b"%d" % sum([len(request) async for request in requests])

    async def both(self, requests: AsyncIterator[bytes], context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()

    async def never(self, request: bytes, context) -> bytes:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b""

    async def fail(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
        return b""


async def status_of(call) -> tuple[grpc.StatusCode, str]:
    with expected(grpc.aio.AioRpcError) as failed:
        await call
    return failed.error.code(), failed.error.details()


async def check_calls(channel: grpc.aio.Channel, loop: Loop) -> None:
    unary = channel.unary_unary(f"/{SERVICE}/Unary")

    async def ask(number: int) -> None:
        call = unary(b"%d" % number, metadata=(("question", str(number)),))
        assert await call == (b"%d" % number)[::-1]
        assert dict(await call.initial_metadata())["answer-to"] == str(number)
        assert dict(await call.trailing_metadata())["loop"] == loop.name

    await asyncio.gather(*map(ask, range(200)))
    down = channel.unary_stream(f"/{SERVICE}/Down")(b"500")
    assert [int(number) async for number in down] == list(range(500))

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 10_000

    assert await channel.stream_unary(f"/{SERVICE}/Up")(parts()) == b"500000"
    both = channel.stream_stream(f"/{SERVICE}/Both")()
    for number in range(100):
        await both.write(b"message %d" % number)
        assert await both.read() == b"MESSAGE %d" % number
    await both.done_writing()
    assert await both.read() is grpc.aio.EOF


async def check_ends(channel: grpc.aio.Channel, handler: Echo) -> None:
    never = channel.unary_unary(f"/{SERVICE}/Never")
    code, _ = await status_of(never(b"", timeout=0.1))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    handler.cancelled.clear()
    call = never(b"")
    await asyncio.sleep(0.1)
    call.cancel()
    with expected(asyncio.CancelledError):
        await call
    assert call.cancelled()
    await asyncio.wait_for(handler.cancelled.wait(), 10)
    failed = await status_of(channel.unary_unary(f"/{SERVICE}/Fail")(b""))
    assert failed == (grpc.StatusCode.FAILED_PRECONDITION, "not today")
    code, _ = await status_of(channel.unary_unary(f"/{SERVICE}/Unknown")(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def check(loop: Loop) -> None:
    server, handler = grpc.aio.server(), Echo()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await check_calls(channel, loop)
        await check_ends(channel, handler)
    await server.stop(5)


def main(loop: Loop) -> None:
    loop.run(check(loop))
