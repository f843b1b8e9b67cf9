"""A Dask cluster on each loop: a scheduler, two workers and a client in processes of their own.

    make bench-cluster

In each round there is a fresh cluster for each loop. The clusters take turns, in alternating order:
in a turn one runs a program while the others are idle. A loop's figure is the median over the
rounds of the median of its turns, of wall-clock time and of the CPU time of all four processes;
ratios are those of corresponding turns.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benches import machine, process
from benches.cluster.work import PROGRAMS
from benches.loops import BASELINE, is_installed
from benches.loops import LOOPS as ALL_LOOPS
from benches.report import amount

#: rloop does not run it: a time limit of `math.inf` ends at once there
LOOPS = tuple(name for name in ALL_LOOPS if name != "rloop")
SECONDS = 60
"""Until a process must have started, or ended."""

Figures = dict[tuple[str, str, str], list[float]]
"""By program, loop and clock: nanoseconds of each turn."""


class Cluster:
    """The processes on one loop."""

    def __init__(self, loop: str, stack: contextlib.ExitStack) -> None:
        self.loop, self.stack = loop, stack
        self.home = stack.enter_context(tempfile.TemporaryDirectory())
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        address = f"tcp://127.0.0.1:{port}"
        options = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        self._start("dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), *options)
        self._wait_for(port)
        for _ in range(2):
            options = ["--no-nanny", "--nthreads", "1", "--no-dashboard"]
            self._start("dask", "worker", *options, address)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.client = self._start("benches.cluster.work", address, **pipes)
        loops = self._answer()["loops"]
        if loops != [loop]:
            raise SystemExit(f"the cluster of {loop} runs on {loops}")

    def run(self, program: str) -> dict[str, float]:
        """Run a program; return the cost of one operation by each clock."""
        self.client.stdin.write(program + "\n")
        self.client.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.client.stdout.readline()
        if not line:
            raise SystemExit(f"the client on {self.loop} has ended; see its output")
        return json.loads(line)

    def _start(self, *command: str, **pipes: Any) -> subprocess.Popen:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(process.ROOT), *sys.path])),
            # The loop that the policy chooses.
            "DASK_DISTRIBUTED__ADMIN__EVENT_LOOP": "asyncio",
            "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
        }
        command = (sys.executable, "-m", "benches.cluster.run_on", self.loop, *command)
        pipes = pipes or {"stdin": subprocess.DEVNULL}
        started = subprocess.Popen(command, cwd=self.home, env=environment, **pipes)
        self.stack.callback(_end, started)
        return started

    def _wait_for(self, port: int) -> None:
        latest = time.monotonic() + SECONDS
        while time.monotonic() < latest:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)
        raise SystemExit(f"the scheduler on {self.loop} does not answer")


def _end(started: subprocess.Popen) -> None:
    started.terminate()
    with started:
        try:
            started.wait(5)
        except subprocess.TimeoutExpired:
            started.kill()


def turns(programs: list[str], loops: list[str], count: int) -> Iterator[tuple[str, str, dict]]:
    """One round: the program, the loop and the costs of each turn."""
    with contextlib.ExitStack() as stack:
        clusters = [Cluster(loop, stack) for loop in loops]
        for program in programs:
            for cluster in clusters:
                cluster.run(program)  # connections and first imports
            for number in range(count):
                for cluster in clusters[:: -1 if number % 2 else 1]:
                    yield program, cluster.loop, cluster.run(program)


def table(rounds: list[Figures], programs: list[str], loops: list[str], baseline: str) -> str:
    """The medians and the ratios to the baseline as a Markdown table."""
    rows = [["program, clock", *loops], ["---"] * (1 + len(loops))]
    for program in programs:
        for clock in ("wall", "cpu"):
            cells = []
            for loop in loops:
                found = [figures[program, loop, clock] for figures in rounds]
                text = amount(statistics.median(map(statistics.median, found)), "ns")
                if loop != baseline and baseline in loops:
                    base = [figures[program, baseline, clock] for figures in rounds]
                    ratios = [
                        statistics.median(b / own for b, own in zip(bases, owns, strict=True))
                        for bases, owns in zip(base, found, strict=True)
                    ]
                    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
                    text += f" · {statistics.median(ratios):.2f}x ({spread})"
                cells.append(text)
            rows.append([f"{program}, {clock}", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benches.cluster", description=__doc__)
    parser.add_argument("--loops", help=f"comma-separated: {', '.join(LOOPS)}")
    parser.add_argument("--only", default=",".join(PROGRAMS), help="comma-separated programs")
    parser.add_argument("--rounds", type=int, default=5, help="clusters per loop")
    parser.add_argument("--turns", type=int, default=4, help="turns of each program in a round")
    parser.add_argument("--baseline", choices=LOOPS, default=BASELINE)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # ends the clusters
    loops = options.loops.split(",") if options.loops else [*filter(is_installed, LOOPS)]
    programs = options.only.split(",")
    for name, value in machine.describe(loops).items():
        print(f"- {name}: {value}")
    rounds = []
    for number in range(options.rounds):
        figures: Figures = {}
        order = loops[number % len(loops) :] + loops[: number % len(loops)]
        for program, loop, costs in turns(programs, order, options.turns):
            for clock, cost in costs.items():
                figures.setdefault((program, loop, clock), []).append(cost)
        rounds.append(figures)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    print(f"- Rounds: {options.rounds} of {options.turns} turns\n")
    print(table(rounds, programs, loops, options.baseline))
    return 0


if __name__ == "__main__":
    sys.exit(main())
