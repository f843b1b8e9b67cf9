"""Turns of a running loop."""

import asyncio
import os

NEVER_READABLE, _WRITER = os.pipe()


async def turns_with_polls(turns: int) -> None:
    """Let the loop turn, and notice in each turn what has happened at its descriptors.

    A busy loop polls less often when that finds nothing for long, until it watches something new:
    see `src/reactor/poll_throttle.rs`.
    """
    loop = asyncio.get_running_loop()
    loop.add_reader(NEVER_READABLE, print)
    loop.remove_reader(NEVER_READABLE)
    for _ in range(turns):
        await asyncio.sleep(0)


async def until_waiting() -> None:
    """Let the tasks that were made just now run until they wait."""
    for _ in range(3):
        await asyncio.sleep(0)
