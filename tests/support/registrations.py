"""What a loop's poller has registered with the kernel, and whether an idle loop sleeps."""

import asyncio
import contextlib
import os
import select
import socket
import time
from pathlib import Path

Directions = set[str]

# An idle loop uses about 1 % of a CPU; a spinning one uses all that other programs leave.
LARGEST_SHARE = 0.15


class Registrations:
    """Reads the registrations of a loop's poller from /proc, without the loop's own descriptors."""

    def __init__(self, poller: int) -> None:
        self.poller = poller
        self.own = set(registered(poller))

    @classmethod
    async def of_running_loop(cls) -> "Registrations":
        """Call this before anything is watched: what is registered then belongs to the loop."""
        # A loop may add its signal pipe when it first waits, which on a busy machine may not happen
        # immediately.
        for _ in range(3):
            await asyncio.sleep(0.001)
        return cls(poller_of(asyncio.get_running_loop()))

    def __call__(self) -> dict[int, Directions]:
        """The watched descriptors, each with "read", "write" or both."""
        return {
            fd: directions
            for fd, directions in registered(self.poller).items()
            if fd not in self.own
        }


def poller_of(loop: asyncio.AbstractEventLoop) -> int:
    """The epoll descriptor of `loop`: the one in which an added reader shows up."""
    probe, other = socket.socketpair()
    with probe, other:
        loop.add_reader(probe, lambda: None)
        try:
            found = [fd for fd in pollers() if probe.fileno() in registered(fd)]
        finally:
            loop.remove_reader(probe)
    [poller] = found
    return poller


def pollers() -> list[int]:
    """Every epoll descriptor of this process."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own descriptor
            if os.readlink(f"/proc/self/fd/{entry}") == "anon_inode:[eventpoll]":
                found.append(int(entry))
    return found


def registered(poller: int) -> dict[int, Directions]:
    """What an epoll descriptor watches."""
    found = {}
    for line in Path(f"/proc/self/fdinfo/{poller}").read_text().splitlines():
        if line.startswith("tfd:"):
            words = line.split()
            events = int(words[3], 16)
            bits = (("read", select.EPOLLIN), ("write", select.EPOLLOUT))
            found[int(words[1])] = {name for name, bit in bits if events & bit}
    return found


async def cpu_usage(seconds: float = 0.2) -> float:
    """The fraction of a CPU that the process uses while the loop has nothing to do."""
    began, before = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - before) / (time.monotonic() - began)


async def assert_sleeps(seconds: float = 0.2) -> None:
    """Check that the loop, which has nothing to do, sleeps."""
    share = await cpu_usage(seconds)
    assert share < LARGEST_SHARE, f"the idle loop uses {share:.0%} of the processor"
