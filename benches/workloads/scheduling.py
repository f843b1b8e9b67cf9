"""Callbacks and timers, without tasks."""

import asyncio
import random
import socket
import threading
from functools import partial

from benches.workload import timed

GROUP = "callbacks"


async def chain(n, schedule):
    """Run `n` callbacks, each of which schedules the next."""
    finished = asyncio.get_running_loop().create_future()
    left = n

    def step():
        nonlocal left
        left -= 1
        if left:
            schedule(step)
        else:
            finished.set_result(None)

    schedule(step)
    await finished
    return n - left


@timed("call-soon-chain", GROUP, "call_soon chain (each schedules the next)", 50_000)
async def call_soon_chain(n):
    return await chain(n, asyncio.get_running_loop().call_soon)


#: sockets on which nothing arrives
idle: list[tuple[socket.socket, socket.socket]] = []


def open_idle_sockets():
    idle.extend(socket.socketpair() for _ in range(250))


@timed(
    "call-soon-chain-idle",
    GROUP,
    "call_soon chain beside 250 idle sockets",
    200_000,
    prepare=open_idle_sockets,
)
async def call_soon_chain_idle(n):
    loop = asyncio.get_running_loop()
    for ours, _ in idle:
        loop.add_reader(ours, ours.recv, 1)
    done = await chain(n, loop.call_soon)
    for ours, _ in idle:
        loop.remove_reader(ours)
    return done


@timed("call-later-chain", GROUP, "call_later(0) chain", 50_000)
async def call_later_chain(n):
    return await chain(n, partial(asyncio.get_running_loop().call_later, 0))


@timed("call-soon-burst", GROUP, "call_soon burst (10,000 at once, with an argument)", 50_000)
async def call_soon_burst(n):
    loop = asyncio.get_running_loop()
    seen = 0

    def step(amount):
        nonlocal seen
        seen += amount

    for _ in range(n // 10_000):
        call_soon = loop.call_soon
        for _ in range(10_000):
            call_soon(step, 1)
        # FIFO: this wake-up comes after all of them.
        flushed = loop.create_future()
        call_soon(flushed.set_result, None)
        await flushed
    return seen


@timed("timers-fire", GROUP, "fire 100,000 timers", 100_000)
async def timers_fire(n):
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    fired = 0

    def fire():
        nonlocal fired
        fired += 1
        if fired == n:
            finished.set_result(None)

    # Out of order, and all due before the last one is scheduled: no time is spent asleep.
    delays = random.Random(1).choices([i * 1e-5 for i in range(1000)], k=1000)
    for i in range(n):
        loop.call_later(delays[i % 1000], fire)
    await finished
    return fired


@timed("timers-cancel", GROUP, "schedule a timer, then cancel it", 50_000)
async def timers_cancel(n):
    loop = asyncio.get_running_loop()
    cancelled = 0

    def never():
        raise AssertionError("a cancelled timer fired")

    for i in range(n):
        handle = loop.call_later(60, never)
        handle.cancel()
        cancelled += handle.cancelled()
        if i % 1000 == 999:
            # Let the loop remove cancelled timers, as it would between real events.
            await asyncio.sleep(0)
    return cancelled


@timed("threadsafe", GROUP, "call_soon_threadsafe from another thread", 50_000, parallel=True)
async def threadsafe(n):
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    seen = 0

    def step():
        nonlocal seen
        seen += 1
        if seen == n:
            finished.set_result(None)

    def produce():
        for _ in range(n):
            loop.call_soon_threadsafe(step)

    producer = threading.Thread(target=produce)
    producer.start()
    await finished
    producer.join()
    return seen
