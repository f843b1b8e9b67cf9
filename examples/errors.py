"""Where exceptions go: through await, out of tasks, out of run()."""

import asyncio
import traceback


class Broken(Exception):
    pass


async def inner() -> None:
    await asyncio.sleep(0)
    raise Broken("deep inside")


async def outer() -> None:
    await inner()


async def main() -> None:
    try:
        await asyncio.create_task(outer())
    except Broken as error:
        traceback.print_tb(error.__traceback__)
        print(type(error).__name__, error)

    task = asyncio.create_task(outer())
    await asyncio.wait([task])
    print([frame.name for frame in traceback.extract_tb(task.exception().__traceback__)])

    for call in (
        lambda: asyncio.create_task(42),
        lambda: asyncio.run(None),
        lambda: asyncio.get_running_loop().call_later(None, print),
        lambda: asyncio.get_running_loop().create_future().result(),
        lambda: task.set_result(1),
        lambda: asyncio.get_running_loop().close(),
    ):
        try:
            print(type(call()).__name__)
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
    raise Broken("out of main")


try:
    asyncio.run(main())
except Broken as error:
    print("run() raises", repr(error))
asyncio.run(inner())
