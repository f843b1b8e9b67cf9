"""Round trips from Python to a Rust future and back.

    make bench-embed

Each sample is the time of one `await` in a coroutine on an otherwise idle loop: the Rust
future is made, polled, woken once and polled again, and its result is returned to Python. The same
future runs on ferroloop's loop and, through pyo3-async-runtimes, on Tokio. Prints the medians
in microseconds.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import embed_bench
import ferroloop

ROUNDS = 7
SAMPLES = 3000


async def samples(make: Callable[[], Any]) -> list[float]:
    """Microseconds of each round trip."""
    clock = time.perf_counter_ns
    taken = []
    for _ in range(SAMPLES):
        before = clock()
        result = await make()
        taken.append((clock() - before) / 1000)
        assert result == 1
    return taken


async def python_coroutine() -> int:
    """The baseline without a Rust future: a coroutine that yields once."""
    await asyncio.sleep(0)
    return 1


def main() -> int:
    """Print a table; return 1 if Rust futures are slower than the project promises."""
    cases: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "Python coroutine, ferroloop": (python_coroutine, ferroloop.new_event_loop),
        "Rust coroutine, ferroloop": (embed_bench.coroutine, ferroloop.new_event_loop),
        "Rust task, ferroloop": (embed_bench.task, ferroloop.new_event_loop),
        "Tokio, ferroloop": (embed_bench.tokio_future, ferroloop.new_event_loop),
        "Tokio, asyncio": (embed_bench.tokio_future, asyncio.SelectorEventLoop),
    }
    medians: dict[str, list[float]] = {name: [] for name in cases}
    # In turns, so that other load on the machine affects all cases equally.
    for _ in range(ROUNDS):
        for name, (make, loop_factory) in cases.items():
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                medians[name].append(statistics.median(runner.run(samples(make))))
    results = {name: statistics.median(found) for name, found in medians.items()}
    for name, median in results.items():
        spread = f"{min(medians[name]):.2f} to {max(medians[name]):.2f}"
        print(f"{name:30} {median:8.2f} us   ({spread})")
    tokio = min(results["Tokio, ferroloop"], results["Tokio, asyncio"])
    ratio = tokio / results["Rust task, ferroloop"]
    print(f"Tokio takes at least {ratio:.1f} times as long as a task")
    # A coroutine is ready in the next turn; a task begins in the next turn and ends one turn later.
    return int(results["Rust coroutine, ferroloop"] >= 1 or ratio < 10)


if __name__ == "__main__":
    sys.exit(main())
