"""Asynchronous iterators, generators, comprehensions and context managers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Countdown:
    def __init__(self, start: int) -> None:
        self.number = start

    def __aiter__(self) -> "Countdown":
        return self

    async def __anext__(self) -> int:
        if self.number == 0:
            raise StopAsyncIteration
        await asyncio.sleep(0.001)
        self.number -= 1
        return self.number + 1


async def ticks(count: int) -> AsyncIterator[int]:
    try:
        for number in range(count):
            await asyncio.sleep(0.001)
            yield number
    finally:
        await asyncio.sleep(0)
        print("ticks: closed")


class Resource:
    async def __aenter__(self) -> "Resource":
        await asyncio.sleep(0)
        print("opened")
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.sleep(0)
        print("closed", error[0].__name__ if error[0] else "")


@contextlib.asynccontextmanager
async def managed(name: str) -> AsyncIterator[str]:
    print("enter", name)
    try:
        yield name.upper()
    finally:
        await asyncio.sleep(0)
        print("leave", name)


async def main() -> None:
    async for number in Countdown(3):
        print("countdown", number)
    print([number async for number in ticks(4) if number % 2])
    print({number: number**2 async for number in Countdown(2)})
    async for number in ticks(100):
        if number == 2:
            break
    await asyncio.sleep(0.01)

    async with Resource(), managed("inner") as name:
        print("inside", name)
    try:
        async with Resource():
            raise LookupError("inside")
    except LookupError as error:
        print("caught", error)

    left_open = ticks(10)
    print("left open:", await anext(left_open))


asyncio.run(main())
