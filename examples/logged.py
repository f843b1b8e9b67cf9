"""What asyncio logs: errors in callbacks, exceptions that were never retrieved."""

import asyncio
import gc
import logging
import sys

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")


def broken(argument: int) -> None:
    raise ValueError(f"callback got {argument}")


async def unnoticed() -> None:
    raise LookupError("never retrieved")


async def main() -> None:
    loop = asyncio.get_running_loop()
    print("-- an error in a callback")
    loop.call_soon(broken, 7)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    print("-- an exception that is never retrieved")
    task = asyncio.create_task(unnoticed(), name="unnoticed")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()

    print("-- the same with a future")
    future = loop.create_future()
    future.set_exception(LookupError("never retrieved"))
    del future
    gc.collect()

    print("-- an exception handler")
    loop.set_exception_handler(lambda loop, context: print("handler:", context["message"]))
    loop.call_soon(broken, 8)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop.set_exception_handler(lambda loop, context: broken(9))
    loop.call_soon(broken, 8)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    loop.call_exception_handler({"message": "reported by hand", "number": 1, "another": "a"})


asyncio.run(main())
