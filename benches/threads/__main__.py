"""What an operation costs with one loop, and with a loop in each of several threads.

    python -m benches.threads [--loops NAMES] [--threads 1,2] [--rounds N] [--only ROWS]

For a free-threaded Python: loops that share nothing should cost the same beside each other as
alone. In each round every combination of a loop and a number of threads gets a fresh process, in
alternating order, in which each row runs in all threads at once. The figure of a row is the median
over the rounds of the CPU time of the process for one operation, in nanoseconds; that includes the
worker threads of the executor, and both sides of an echo. CPU time is not wall-clock time: a loop
that waits costs nothing here.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig

from benches.loops import LOOPS, is_installed, version_of
from benches.threads.work import ROWS

Figures = dict[tuple[str, str, int], list[float]]
"""By row, loop and number of threads: nanoseconds of each round."""


def main() -> None:
    options = parse_options()
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        print("this Python has a GIL: the threads run one after the other", file=sys.stderr)
    figures: Figures = {}
    for number in range(options.rounds):
        processes = [(loop, threads) for loop in options.loops for threads in options.threads]
        for loop, threads in processes if number % 2 == 0 else processes[::-1]:
            for row, nanoseconds in run(loop, threads, options.only).items():
                figures.setdefault((row, loop, threads), []).append(nanoseconds)
    report(options, figures)


def parse_options() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(prog="python -m benches.threads")
    installed = [name for name in LOOPS if is_installed(name)]
    parser.add_argument("--loops", type=names, default=installed)
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=names, default=list(ROWS), metavar="ROWS")
    options = parser.parse_args()
    unknown = set(options.only) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)} (there are: {', '.join(ROWS)})")
    return options


def run(loop: str, threads: int, rows: list[str]) -> dict[str, float]:
    """The rows in one process; those that fail are reported and left out."""
    command = [sys.executable, "-m", "benches.threads.work", loop, str(threads), *rows]
    # Extension modules that do not say that they need no GIL would enable it.
    environment = dict(os.environ, PYTHON_GIL="0")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        print(f"{loop}, {threads} threads: exit status {done.returncode}", file=sys.stderr)
    return dict(json.loads(line) for line in done.stdout.splitlines())


def report(options: argparse.Namespace, figures: Figures) -> None:
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors")
    print(", ".join(f"{loop} {version_of(loop)}" for loop in options.loops))
    first = options.threads[0]
    for row in options.only:
        print(f"\n{row} (ns of CPU time)")
        for loop in options.loops:
            cells = []
            for threads in options.threads:
                found = figures.get((row, loop, threads))
                if not found:
                    cells.append("failed")
                    continue
                median = statistics.median(found)
                cells.append(f"{median:,.0f}")
                alone = figures.get((row, loop, first))
                if threads != first and alone:
                    cells[-1] += f" ({median / statistics.median(alone) - 1:+.0%})"
            print(f"    {loop:10}", *(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
