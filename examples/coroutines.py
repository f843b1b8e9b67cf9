"""Running coroutines: one after the other, side by side, and with a result."""

import asyncio


async def brew(drink: str, minutes: int) -> str:
    print(f"{drink}: started")
    await asyncio.sleep(minutes / 100)
    print(f"{drink}: ready")
    return f"a cup of {drink}"


async def main() -> None:
    print("one after the other")
    await brew("coffee", 2)
    await brew("tea", 1)

    print("side by side")
    for cup in await asyncio.gather(brew("coffee", 2), brew("tea", 1)):
        print("got", cup)

    print("a coroutine object does nothing until it is awaited:", end=" ")
    coroutine = brew("cocoa", 1)
    print(type(coroutine).__name__)
    print(await coroutine)


asyncio.run(main())
