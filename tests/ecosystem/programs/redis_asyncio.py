"""redis-py (asyncio): pipelines, publish/subscribe, blocking commands, streams, UNIX socket."""

import asyncio

import redis.asyncio
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.exceptions import WatchError

from .. import services
from ..expected import expected
from ..loops import Loop


async def check_commands(client: redis.asyncio.Redis) -> None:
    await client.set("bytes", bytes(range(256)) * 4000)
    assert await client.get("bytes") == bytes(range(256)) * 4000
    await asyncio.gather(*(client.incr("counter") for _ in range(500)))
    assert await client.get("counter") == b"500"
    async with client.pipeline(transaction=True) as pipe:
        for number in range(1000):
            pipe.rpush("list", number)
        assert await pipe.execute() == list(range(1, 1001))
    assert await client.lrange("list", 0, -1) == [b"%d" % number for number in range(1000)]
    async with client.pipeline() as pipe:
        await pipe.watch("counter")
        await client.set("counter", 0)
        pipe.multi()
        pipe.incr("counter")
        with expected(WatchError):
            await pipe.execute()


async def check_waiting(client: redis.asyncio.Redis) -> None:
    waiter = asyncio.create_task(client.blpop(["queue"], timeout=10))
    await asyncio.sleep(0.05)
    await client.rpush("queue", "item")
    assert list(await waiter) == [b"queue", b"item"]
    abandoned = asyncio.create_task(client.blpop(["queue"], timeout=10))
    await asyncio.sleep(0.05)
    abandoned.cancel()
    await asyncio.gather(abandoned, return_exceptions=True)
    await client.rpush("queue", "second")
    assert await client.lpop("queue") == b"second"
    identifiers = [await client.xadd("stream", {"number": number}) for number in range(20)]
    (_, entries), *_ = await client.xread({"stream": "0"}, block=1000)
    assert [identifier for identifier, _ in entries] == identifiers


async def check_publish(client: redis.asyncio.Redis) -> None:
    received: list[bytes] = []

    async def listen(pubsub: redis.asyncio.client.PubSub) -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                received.append(message["data"])
                if message["data"] == b"99":
                    return

    async with client.pubsub() as pubsub:
        await pubsub.subscribe("channel")
        listener = asyncio.create_task(listen(pubsub))
        await asyncio.sleep(0.05)
        for number in range(100):
            assert await client.publish("channel", number) == 1
        await asyncio.wait_for(listener, 10)
    assert received == [b"%d" % number for number in range(100)]


async def check_timeout(port: int) -> None:
    async with redis.asyncio.Redis(port=port, socket_timeout=0.1, retry=None) as hasty:
        with expected(RedisTimeoutError):
            await hasty.blpop(["nothing"], timeout=5)


async def check(server: services.Server) -> None:
    # RESP 2, so that replies look the same with every version of the client.
    for where in ({"port": server.port}, {"unix_socket_path": server.socket}):
        async with redis.asyncio.Redis(**where, protocol=2, max_connections=600) as client:
            await client.flushall()
            await check_commands(client)
            await check_waiting(client)
            await check_publish(client)
    await check_timeout(server.port)


def main(loop: Loop) -> None:
    with services.redis() as server:
        loop.run(check(server))
