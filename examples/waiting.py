"""Waiting for several things: gather, wait, wait_for, as_completed, timeout, TaskGroup."""

import asyncio


async def work(name: str, seconds: float, fail: bool = False) -> str:
    await asyncio.sleep(seconds)
    if fail:
        raise ValueError(f"{name} failed")
    return name


async def main() -> None:
    print("gather:", await asyncio.gather(work("a", 0.02), work("b", 0.01)))
    found = await asyncio.gather(work("a", 0), work("b", 0, fail=True), return_exceptions=True)
    print("gather with exceptions:", found)

    tasks = [asyncio.create_task(work(str(i), i / 50), name=f"t{i}") for i in range(3)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    print("first completed:", sorted(t.get_name() for t in done), "pending:", len(pending))
    done, pending = await asyncio.wait(tasks)
    print("all:", sorted(t.result() for t in done), "pending:", len(pending))

    try:
        await asyncio.wait_for(work("slow", 60), 0.01)
    except TimeoutError as error:
        print("wait_for:", repr(error))
    try:
        async with asyncio.timeout(0.01):
            await work("slow", 60)
    except TimeoutError as error:
        print("timeout:", repr(error))

    print("as completed:", end="")
    for future in asyncio.as_completed([work("c", 0.03), work("a", 0.01), work("b", 0.02)]):
        print("", await future, end="")
    print()

    try:
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(work("slow", 60))
            group.create_task(work("one", 0.001, fail=True))
    except* ValueError as errors:
        print("group:", errors.exceptions, "slow cancelled:", slow.cancelled())


asyncio.run(main())
