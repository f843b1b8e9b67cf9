"""Tasks: naming, polling, cancelling, and their reprs."""

import asyncio


async def count(limit: int) -> int:
    for number in range(limit):
        await asyncio.sleep(0.01)
        print(f"  {asyncio.current_task().get_name()} counts {number}")
    return limit


async def forever() -> None:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError as error:
        print("  cancelled:", error)
        raise


async def main() -> None:
    print("a named task")
    task = asyncio.create_task(count(2), name="counter")
    print(task)
    while not task.done():
        await asyncio.sleep(0.004)
    print(task)
    print("result:", task.result(), "cancelled:", task.cancelled())

    print("a cancelled task")
    task = asyncio.create_task(forever(), name="sleeper")
    await asyncio.sleep(0)
    print(task)
    print("cancel() says", task.cancel("no time"))
    print(task)
    try:
        await task
    except asyncio.CancelledError:
        print("  the caller sees it as well")
    print(task)
    print("cancel() says", task.cancel(), "now; requests:", task.cancelling())

    others = [asyncio.create_task(asyncio.sleep(0), name=f"other{i}") for i in range(2)]
    names = {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}
    print("all tasks besides this one:", sorted(names))
    await asyncio.wait(others)


asyncio.run(main())
