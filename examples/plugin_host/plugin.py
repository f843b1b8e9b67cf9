"""A plug-in that works on the host's jobs, several at a time."""

import asyncio
from typing import Any


async def work(host: Any, job: str) -> None:
    """Do one job."""
    await asyncio.sleep(0.01)
    host.report(f"{job} done")


async def run(host: Any) -> str:
    """Work until the host has no more jobs. The host may cancel this at any time."""
    count = 0
    try:
        async with asyncio.TaskGroup() as group:
            while (job := await host.next_job()) is not None:
                count += 1
                group.create_task(work(host, job))
        return f"{count} jobs"
    finally:
        host.report(f"cleaned up after {count}")
