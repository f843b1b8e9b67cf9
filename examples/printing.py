"""The repr of loops, handles, futures and tasks in each state."""

import asyncio


def callback(*args: object) -> None:
    pass


async def child() -> str:
    return "value"


async def failing() -> None:
    raise KeyError("key")


async def main() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    print(future)
    future.add_done_callback(callback)
    future.add_done_callback(print)
    print(future)
    future.add_done_callback(callback)
    print(future)

    async def wait() -> object:
        return await future

    task = asyncio.create_task(wait(), name="waiter")
    print(task)
    await asyncio.sleep(0)
    print(task)
    future.set_result({"answer": 42})
    print(future)
    print(task)
    await task
    print(task)

    task = asyncio.create_task(failing(), name="failing")
    await asyncio.wait([task])
    print(task)
    print(repr(task.exception()))

    task = asyncio.create_task(child(), name="cancelled")
    task.cancel()
    print(task)
    await asyncio.wait([task])
    print(task)

    print(loop.call_soon(callback, 1, "two"))
    handle = loop.call_later(60, callback)
    handle.cancel()
    print(str(handle).partition(" when=")[0])
    gathering = asyncio.gather(child(), child())
    print(str(gathering).partition(" ")[0])
    print(await gathering)


asyncio.run(main())
