"""One workload on one loop, in a process of its own: ``python -m benches.worker ...``.

The worker writes JSON objects to stdout, one per line, for its parent. When a server is ready, it
writes ``{"address": ...}``; the load generator takes the figures. Any other workload writes
``{"ready": true}``; each line on stdin is then the duration of a turn in seconds, and the answer
is ``{"cost": ...}``, the cost of one operation. The process ends at the end of stdin.
``{"failure": kind, "detail": text}`` may come at any time and is the last line.
All other output of the workload goes to stderr.
"""

import argparse
import asyncio
import gc
import importlib
import json
import os
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from benches.loops import new_event_loop_of
from benches.workload import WORKLOADS, Workload

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class WrongResultError(Exception):
    """The workload finished with a wrong result."""


def age_allocator() -> None:
    """Bring malloc to the state of a process that has run for a while.

    glibc maps each block of 128 KiB or more with a system call of its own until a mapped block is
    freed; then the threshold rises to that block's size.
    """
    for size in (1 << 20, 8 << 20, 24 << 20):
        bytearray(size)


def run_timed(workload: Workload, new_event_loop: LoopFactory, clock: Callable[[], int]) -> None:
    """Take turns; a turn's figure is the median of its samples, in nanoseconds per operation."""
    n = workload.n
    loop = new_event_loop()
    asyncio.set_event_loop(loop)

    def sample() -> float:
        gc.collect()
        begin = clock()
        done = loop.run_until_complete(workload.run(n))
        elapsed = clock() - begin
        if done != n:
            raise WrongResultError(f"{done!r} operations seen instead of {n}")
        return elapsed / n

    def turn(seconds: float) -> float:
        if workload.young:
            return sample()
        deadline = time.perf_counter() + seconds
        samples = [sample()]
        while time.perf_counter() < deadline:
            samples.append(sample())
        return statistics.median(samples)

    try:
        if not workload.young:
            age_allocator()
            sample()
        take_turns(turn)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def take_turns(turn: Callable[[float], float]) -> None:
    """Measure only when stdin asks for it: at other times another loop is measured."""
    report(ready=True)
    for line in sys.stdin:
        report(cost=turn(float(line)))


def run_served(workload: Workload, new_event_loop: LoopFactory, endpoint: str) -> None:
    """Serve until stdin ends."""
    if not workload.young:
        age_allocator()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)

    async def main() -> None:
        stopped = loop.create_future()

        def wait_for_end_of_input() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(stopped.set_result, None)

        async with workload.run(endpoint) as address:
            report(address=address)
            threading.Thread(target=wait_for_end_of_input, daemon=True).start()
            await stopped

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def report(**fields: Any) -> None:
    """Write one line to the parent."""
    output.write(json.dumps(fields) + "\n")
    output.flush()


def classify(error: BaseException) -> str:
    """The kind of failure that the table shows for an exception."""
    if isinstance(error, WrongResultError):
        return "wrong result"
    if isinstance(error, NotImplementedError | ImportError):
        return "missing"
    return "error"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--module", required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--loop", required=True)
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--cpu", type=int, default=-1)
    options = parser.parse_args()
    if options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})
    importlib.import_module(options.module)
    workload = WORKLOADS[options.workload]
    try:
        new_event_loop = new_event_loop_of(options.loop)
        if workload.prepare is not None:
            workload.prepare()
        if workload.kind == "timed":
            clock = time.process_time_ns if options.clock == "cpu" else time.perf_counter_ns
            run_timed(workload, new_event_loop, clock)
        elif workload.kind == "measured":
            take_turns(lambda seconds: workload.run(new_event_loop, workload.n))
        else:
            run_served(workload, new_event_loop, options.endpoint)
    except Exception as error:
        traceback.print_exc()
        detail = traceback.format_exception_only(error)[-1].strip()
        report(failure=classify(error), detail=detail)
        return 1
    return 0


if __name__ == "__main__":
    # Workloads may print, as servers print banners: only report() reaches the parent.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.exit(main())
