"""Fetch six thousand pages with aiohttp on ferroloop and on asyncio, and compare.

``python examples/demo`` runs both, each in a process of its own, in turns, and prints a table.
``python examples/demo --loop ferroloop`` runs one of them once and prints its figures as JSON.
"""

import argparse
import asyncio
import importlib
import json
import platform
import subprocess
import sys
import time

LOOPS = ("ferroloop", "asyncio")


async def show_progress(label: str, counts, total: int) -> None:
    """Rewrite one line on stderr until cancelled."""
    live = sys.stderr.isatty()
    while live:
        done = 30 * counts.pages // total
        bar = "#" * done + "." * (30 - done)
        sys.stderr.write(f"\r\x1b[K  {label:36} [{bar}] {counts.pages}/{total}")
        sys.stderr.flush()
        await asyncio.sleep(0.1)


async def run_steps(name: str) -> dict[str, dict[str, float]]:
    """Run all steps against one server on the running loop."""
    import client
    import server
    from aiohttp import ClientSession, ClientTimeout, TCPConnector

    figures = {}
    async with (
        server.serving() as url,
        ClientSession(
            url, timeout=ClientTimeout(total=60), connector=TCPConnector(limit=client.CONCURRENCY)
        ) as session,
    ):
        await client.fetch(session, 0)
        for label, step in client.STEPS.items():
            counts = client.Counts()
            total = client.PAGES[label]
            progress = asyncio.create_task(show_progress(f"{name}: {label}", counts, total))
            begin = time.perf_counter()
            await client.finish(step(session, counts), counts)
            seconds = time.perf_counter() - begin
            progress.cancel()
            # A page that was not fetched is a failure, and so is a wrong number of timeouts.
            failures = counts.failures + total - counts.pages
            failures += abs(client.TIMEOUTS[label] - counts.timeouts)
            figures[label] = {"pages": counts.pages, "failures": failures, "seconds": seconds}
            mark = "ok" if not failures else f"{failures} FAILED"
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            rate = f"{counts.pages / seconds:8,.0f} pages/s"
            print(f"{clear}  {name + ':':12}{label:28} {rate}  {mark}", file=sys.stderr, flush=True)
    return figures


def run_one(name: str) -> int:
    """Run the program on one loop, in this process."""
    if name != "asyncio":
        importlib.import_module(name).install()

    async def checked() -> dict[str, dict[str, float]]:
        loop = asyncio.get_running_loop()
        if not type(loop).__module__.startswith(name):
            sys.exit(f"runs on {loop!r} instead of {name}")
        return await run_steps(name)

    print(json.dumps(asyncio.run(checked())))
    return 0


def run_all(rounds: int) -> dict[str, list[dict]]:
    """Run every loop once per round, in its own process."""
    runs: dict[str, list[dict]] = {name: [] for name in LOOPS}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for name in LOOPS if number % 2 == 0 else reversed(LOOPS):
            command = [sys.executable, __file__, "--loop", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, timeout=300)
            if done.returncode:
                sys.exit(f"the program failed on {name} (exit status {done.returncode})")
            runs[name].append(json.loads(done.stdout))
    return runs


def show_table(runs: dict[str, list[dict]]) -> int:
    """Print the best runs side by side; return the number of failures."""
    print(f"\nPython {platform.python_version()}, best of {len(runs['asyncio'])} runs each\n")
    head = f"{'step':26}{'pages':>7}{'failures':>10}{'ferroloop':>14}{'asyncio':>14}{'ratio':>8}"
    print(head + "\n" + "-" * len(head))
    labels = [*runs["ferroloop"][0], "total"]
    for run in (run for each in runs.values() for run in each):
        columns = ("pages", "failures", "seconds")
        run["total"] = {key: sum(step[key] for step in run.values()) for key in columns}
    for label in labels:
        seconds = {
            # The best run: other load on the machine only makes a run slower.
            name: min(run[label]["seconds"] for run in each)
            for name, each in runs.items()
        }
        pages = runs["ferroloop"][0][label]["pages"]
        failures = sum(run[label]["failures"] for each in runs.values() for run in each)
        rates = "".join(f"{pages / seconds[name]:>12,.0f}/s" for name in LOOPS)
        ratio = seconds["asyncio"] / seconds["ferroloop"]
        print(f"{label:26}{pages:>7,}{failures:>10}{rates}{ratio:>7.2f}x")
    return sum(run["total"]["failures"] for each in runs.values() for run in each)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--loop", help="run once, on this loop, in this process")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    if options.loop:
        return run_one(options.loop)
    failures = show_table(run_all(options.rounds))
    print("\nEvery body was checked." if not failures else f"\n{failures} FAILURES")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
