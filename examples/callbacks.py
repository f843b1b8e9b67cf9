"""Callbacks: soon, later, at a given time; and done callbacks of tasks and futures."""

import asyncio


def show(*words: object) -> None:
    print("callback:", *words)


def finished(future: asyncio.Future) -> None:
    if future.cancelled():
        print("finished: cancelled")
    elif future.exception():
        print("finished:", repr(future.exception()))
    else:
        print("finished:", future.result())


async def divide(a: int, b: int) -> float:
    await asyncio.sleep(0)
    return a / b


async def main() -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(0.03, show, "third")
    loop.call_at(loop.time() + 0.02, show, "second")
    loop.call_soon(show, "first", 1)
    handle = loop.call_later(0.01, show, "never")
    print(loop.call_soon(show, "with a handle"))
    handle.cancel()
    print("cancelled:", handle.cancelled())
    await asyncio.sleep(0.05)

    for a, b in ((1, 2), (1, 0)):
        task = asyncio.create_task(divide(a, b))
        task.add_done_callback(finished)
        await asyncio.wait([task])
        await asyncio.sleep(0)

    future = loop.create_future()
    future.add_done_callback(finished)
    print(future)
    future.set_result("by hand")
    print(future)
    print(await future)

    future = loop.create_future()
    future.add_done_callback(finished)
    future.add_done_callback(show)
    print("removed:", future.remove_done_callback(show))
    future.cancel()
    await asyncio.sleep(0)


asyncio.run(main())
