"""Round trips from Python to a Rust future and back.

    make bench-embed

Each sample is the time of one `await` in a coroutine on an otherwise idle loop: the Rust
future is made, polled, woken once and polled again, and its result is returned to Python. The same
future runs on ferroloop's loop and on Tokio: through pyo3-async-runtimes ("original"), and through
ferroloop-async-runtimes (`compat/`, "ours"), which has its interface. "There and back" is a Python
coroutine that a Rust future on Tokio awaits. Prints the medians in microseconds, and how many times
as long the original takes.
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


def ported_await() -> Any:
    """Through ferroloop-async-runtimes."""
    return embed_bench.ported_await(python_coroutine())


def tokio_await() -> Any:
    """Through pyo3-async-runtimes."""
    return embed_bench.tokio_await(python_coroutine())


def main() -> int:
    """Print a table; return 1 if Rust futures are slower than the project promises."""
    ours, asyncios = ferroloop.new_event_loop, asyncio.SelectorEventLoop
    cases: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "Python coroutine, ferroloop": (python_coroutine, ours),
        "Rust coroutine, ferroloop": (embed_bench.coroutine, ours),
        "Rust task, ferroloop": (embed_bench.task, ours),
    }
    for loop, factory in (("ferroloop", ours), ("asyncio", asyncios)):
        cases |= {
            f"Tokio, {loop}, ours": (embed_bench.ported_future, factory),
            f"Tokio, {loop}, original": (embed_bench.tokio_future, factory),
            f"there and back, {loop}, ours": (ported_await, factory),
            f"there and back, {loop}, original": (tokio_await, factory),
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
        original = results.get(name.replace(", ours", ", original"), median)
        ratio = f"   {original / median:.2f}x" if name.endswith(", ours") else ""
        print(f"{name:35} {median:8.2f} us   ({spread}){ratio}")
    tokio = min(results["Tokio, ferroloop, original"], results["Tokio, asyncio, original"])
    ratio = tokio / results["Rust task, ferroloop"]
    print(f"pyo3-async-runtimes takes at least {ratio:.1f} times as long as a task")
    # A coroutine is ready in the next turn; a task begins in the next turn and ends one turn later.
    return int(results["Rust coroutine, ferroloop"] >= 1 or ratio < 10)


if __name__ == "__main__":
    sys.exit(main())
