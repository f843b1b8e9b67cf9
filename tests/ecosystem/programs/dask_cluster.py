"""Dask: a scheduler, two workers and a client in processes on the loop; work, a lost worker."""

import asyncio
import contextlib
import hashlib
import os
import tempfile

from distributed import Client

from ..loops import Loop, running
from ..servers import free_port, serving

WORDS = ("the", "quick", "brown", "fox")
SECONDS = 30


def count_words(seed: int) -> dict[str, int]:
    """The words of a text that the seed determines."""
    digest = hashlib.sha256(b"%d" % seed).digest() * 200
    counts = dict.fromkeys(WORDS, 0)
    for byte in digest:
        counts[WORDS[byte % len(WORDS)]] += 1
    return counts


def add(parts: list[dict[str, int]]) -> dict[str, int]:
    """The sum of counts."""
    return {word: sum(part[word] for part in parts) for word in WORDS}


async def loop_of_process() -> str:
    return running()


async def check(loop: Loop, port: int, lose_a_worker) -> None:
    expected = add([count_words(seed) for seed in range(200)])
    async with Client(f"tcp://127.0.0.1:{port}", asynchronous=True, timeout=SECONDS) as client:
        await client.wait_for_workers(2, timeout=SECONDS)
        assert set((await client.run(loop_of_process)).values()) == {loop.name}
        for attempt in range(2):
            parts = client.map(count_words, range(200), pure=False)
            total = client.submit(add, parts)
            if attempt == 1:
                lose_a_worker()  # its results are computed again by the other one
            assert await asyncio.wait_for(total, SECONDS) == expected


def main(loop: Loop) -> None:
    on_loop = [*loop.interpreter, "-m", "dask"]
    # asyncio's loop, or the one that ferroloop's command line has installed.
    os.environ["DASK_DISTRIBUTED__ADMIN__EVENT_LOOP"] = "asyncio"
    with contextlib.ExitStack() as running_processes, tempfile.TemporaryDirectory() as home:
        port = free_port()
        options = {"cwd": home, "quiet": True}
        scheduler = [*on_loop, "scheduler", "--host", "127.0.0.1", "--port", str(port)]
        scheduler += ["--no-dashboard", "--no-show"]
        address = ("127.0.0.1", port)
        running_processes.enter_context(serving(scheduler, address, **options))
        worker = [*on_loop, "worker", "--no-nanny", "--nthreads", "1", "--no-dashboard"]
        worker.append(f"tcp://127.0.0.1:{port}")
        workers = [
            running_processes.enter_context(serving(worker, address, statuses=(0, -9), **options))
            for _ in range(2)
        ]
        loop.run(check(loop, port, workers[1].kill))
