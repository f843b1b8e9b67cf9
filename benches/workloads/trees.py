"""Task trees: a task that spawns children that spawn children, as in pyperformance."""

import asyncio

from benches.workload import timed
from benches.workloads.tasks import eager_tasks

GROUP = "tasks"
BRANCHES = 6
LEVELS = 4
#: tasks in a tree: the levels below the root
SIZE = sum(BRANCHES**level for level in range(1, LEVELS + 1))
LEAVES = BRANCHES**LEVELS


async def grow(level, leaf):
    """Number of tasks below this one; each leaf awaits `leaf()`."""
    if level == LEVELS:
        await leaf()
        return 0
    below = await asyncio.gather(*[grow(level + 1, leaf) for _ in range(BRANCHES)])
    return sum(below) + BRANCHES


@timed("tree-none", GROUP, "task tree, leaves return at once", SIZE)
async def tree_none(n):
    async def leaf():
        pass

    return await grow(0, leaf)


@timed("tree-io", GROUP, "task tree, leaves sleep as if for I/O", SIZE)
async def tree_io(n):
    async def leaf():
        await asyncio.sleep(0.001)

    return await grow(0, leaf)


@timed("tree-memoised", GROUP, "task tree, 9 of 10 leaves find their answer ready", SIZE)
async def tree_memoised(n):
    visits = 0

    async def leaf():
        nonlocal visits
        visits += 1
        if visits % 10 == 0:
            await asyncio.sleep(0.001)

    return await grow(0, leaf)


@timed(
    "tree-eager", GROUP, "task tree with eager tasks, leaves return at once", SIZE, python=(3, 12)
)
async def tree_eager(n):
    async with eager_tasks():
        return await tree_none(n)
