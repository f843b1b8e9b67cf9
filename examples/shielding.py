"""shield(): the waiter is cancelled, the work continues."""

import asyncio


async def save() -> str:
    print("saving")
    await asyncio.sleep(0.02)
    print("saved")
    return "document"


async def main() -> None:
    work = asyncio.create_task(save(), name="save")
    waiter = asyncio.ensure_future(asyncio.shield(work))
    await asyncio.sleep(0)
    waiter.cancel()
    try:
        await waiter
    except asyncio.CancelledError:
        print("the waiter was cancelled")
    print("work done:", work.done())
    print("work result:", await work)

    try:
        await asyncio.wait_for(asyncio.shield(asyncio.sleep(0.02, "late")), 0.005)
    except TimeoutError:
        print("did not wait")
    await asyncio.sleep(0.03)


asyncio.run(main())
