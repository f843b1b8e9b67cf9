"""What an operation costs with one loop, and with a loop in each of several threads.

    python -m benches.threads [--loops NAMES] [--threads N] [--rounds N] [--only ROWS]

For a free-threaded Python: loops that share nothing should cost the same beside each other as
alone. Each row is measured with one loop, with a loop in each of N threads, and, as the control,
with a loop in each of N processes: what these cost more than one loop is the machine's share (two
processors may be halves of one core), and what threads cost more than processes is ours. In each
round every combination gets a fresh process, in alternating order. The figure of a row is the
least of the rounds, since all that disturbs only adds: CPU time for one operation, in nanoseconds.
It includes the worker threads of the executor, and both sides of an echo. CPU time is not
wall-clock time: a loop that waits costs nothing here.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import sysconfig

from benches.loops import LOOPS, is_installed, version_of
from benches.threads.work import ROWS

# A process that takes longer hangs: without a GIL the threads of some loops do.
SECONDS = 60

Setting = tuple[str, int]
"""What runs a loop each, and how many of them: `("threads", 2)`."""

Figures = dict[tuple[str, str, Setting], list[float]]
"""By row, loop and setting: nanoseconds of each round."""


def main() -> None:
    options = parse_options()
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        print("this Python has a GIL: the threads run one after the other", file=sys.stderr)
    figures: Figures = {}
    for number in range(options.rounds):
        order = [(loop, setting) for loop in options.loops for setting in settings(options)]
        for loop, setting in order if number % 2 == 0 else order[::-1]:
            for row, nanoseconds in run(loop, setting, options.only).items():
                figures.setdefault((row, loop, setting), []).append(nanoseconds)
    report(options, figures)


def settings(options: argparse.Namespace) -> list[Setting]:
    return [("threads", 1), ("threads", options.threads), ("processes", options.threads)]


def parse_options() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(prog="python -m benches.threads")
    installed = [name for name in LOOPS if is_installed(name)]
    parser.add_argument("--loops", type=names, default=installed)
    parser.add_argument("--threads", type=int, default=2, help="and processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=names, default=list(ROWS), metavar="ROWS")
    options = parser.parse_args()
    unknown = set(options.only) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)} (there are: {', '.join(ROWS)})")
    return options


def run(loop: str, setting: Setting, rows: list[str]) -> dict[str, float]:
    """The rows in one process; those that fail are reported and left out."""
    kind, number = setting
    command = [sys.executable, "-m", "benches.threads.work", loop, kind, str(number), *rows]
    # Extension modules that do not say that they need no GIL would enable it.
    environment = dict(os.environ, PYTHON_GIL="0")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            # With the processes that it has started: they have the same standard output.
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    if process.returncode:
        print(f"{loop}, {number} {kind}: exit status {process.returncode}", file=sys.stderr)
    return dict(json.loads(line) for line in output.splitlines())


def report(options: argparse.Namespace, figures: Figures) -> None:
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors")
    print(", ".join(f"{loop} {version_of(loop)}" for loop in options.loops))
    titles = ["one loop", f"{options.threads} threads", f"{options.threads} processes"]
    for row in options.only:
        print(f"\n{row + ' (ns)':14}", *(f"{title:>14}" for title in [*titles, "2nd to 3rd"]))
        for loop in options.loops:
            least = [
                min(figures.get((row, loop, setting), []), default=None)
                for setting in settings(options)
            ]
            cells = ["failed" if value is None else f"{value:,.0f}" for value in least]
            _, in_threads, in_processes = least
            if in_threads and in_processes:
                cells.append(f"{in_threads / in_processes:.2f}")
            print(f"    {loop:10}", *(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main()
