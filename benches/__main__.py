"""``python -m benches``: compare the installed event loops. See README.md beside this file."""

import argparse
import fnmatch
import sys
import time
from pathlib import Path

from benches import machine, process, report, rounds, store, workloads
from benches.contender import Conditions
from benches.load_generator import Loadgen
from benches.loops import BASELINE, KNOWN, LOOPS, is_installed
from benches.outcome import Series
from benches.workload import Workload, all_workloads

CLOCKS = {"wall": "wall-clock time", "cpu": "CPU time"}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("--only", help="comma-separated names, groups or globs of workloads")
    parser.add_argument("--skip", help="workloads to leave out, in the same syntax")
    parser.add_argument("--loops", help=f"comma-separated: {', '.join(KNOWN)}")
    parser.add_argument(
        "--baseline", choices=KNOWN, default=BASELINE, help="the loop that ratios refer to"
    )
    parser.add_argument("--rounds", type=int, default=5, help="processes per loop and workload")
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="time for the turns of each process"
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU time of the process under test, for a busy machine",
    )
    parser.add_argument("--limit", type=float, default=60, help="seconds until it counts as a hang")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--results", type=Path, help="write RESULTS.md and its chart here")
    parser.add_argument(
        "--from", dest="sources", type=Path, nargs="+", help="measure nothing: read --json files"
    )
    parser.add_argument("--note", default="", help="a sentence to print above the table")
    parser.add_argument("--list", action="store_true", help="list the workloads and end")
    return parser.parse_args(arguments)


def select(only: str | None, skip: str | None) -> list[Workload]:
    """Workloads by name, group or glob; a pattern that matches nothing is a mistake."""

    def matching(patterns: str) -> set[str]:
        names = set()
        for pattern in patterns.split(","):
            found = {
                w.name
                for w in all_workloads()
                if w.group == pattern or fnmatch.fnmatchcase(w.name, pattern)
            }
            if not found:
                sys.exit(f"no workload matches {pattern!r} (see --list)")
            names |= found
        return names

    chosen = matching(only) if only else {w.name for w in all_workloads()}
    chosen -= matching(skip) if skip else set()
    return [w for w in all_workloads() if w.name in chosen]


def obstacle(workload: Workload) -> str:
    """Why `workload` can't run on this interpreter with any loop; empty if it can."""
    if sys.version_info < workload.python:
        return "needs Python " + ".".join(map(str, workload.python))
    missing = [name for name in workload.modules if not process.has_module(name)]
    return f"needs {', '.join(missing)}" if missing else ""


class Progress:
    """One line that is rewritten on a terminal; on a file, one line per finished workload."""

    def __init__(self, total: int):
        self.total = total
        self.done = 0
        self.begin = time.monotonic()
        self.live = sys.stderr.isatty()

    def running(self, workload: Workload, number: int) -> None:
        """Show what runs now."""
        if self.live:
            text = f"{workload.name}: round {number + 1}"
            sys.stderr.write(f"\r\x1b[K[{self.done}/{self.total}, {self._left()}] {text}")
            sys.stderr.flush()

    def finished_one(self) -> None:
        """Count a round."""
        self.done += 1

    def finished(self, line: str) -> None:
        """Print a workload's figures."""
        sys.stderr.write(("\r\x1b[K" if self.live else "") + f"[{self.done}/{self.total}] {line}\n")
        sys.stderr.flush()

    def _left(self) -> str:
        if not self.done:
            return "starting"
        left = (time.monotonic() - self.begin) / self.done * (self.total - self.done)
        return f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left"


def compare(
    workloads: list[Workload], loops: list[str], options: argparse.Namespace
) -> list[Series]:
    """Run everything: per workload, rounds; per round, every loop, in rotating order."""
    served = any(w.kind == "served" for w in workloads)
    loadgen = Loadgen.build() if served else None
    conditions = Conditions(options.seconds, options.limit, options.clock, loadgen)
    progress = Progress(len(workloads) * options.rounds)
    table = []
    for workload in workloads:
        series = Series(workload.name)
        table.append(series)
        for number in range(options.rounds):
            progress.running(workload, number)
            turn = number % len(loops)
            order = loops[turn:] + loops[:turn]
            # A loop that crashed, hung or lacks the feature isn't measured again.
            fit = [loop for loop in order if not series.failure(loop)]
            outcomes = rounds.run(workload, fit, conditions)
            for loop in loops:
                series.add(loop, series.failure(loop) or outcomes[loop])
            progress.finished_one()
        progress.finished(report.line(workload, series, loops, options.baseline))
    return table


def main() -> int:
    """Entry point."""
    options = parse(sys.argv[1:])
    workloads.load_all()
    if options.list:
        for workload in all_workloads():
            print(f"{workload.name:32} {workload.group:10} {workload.title}")
        return 0
    if options.sources:
        facts, loops, table = store.load(options.sources)
    else:
        loops = options.loops.split(",") if options.loops else [*filter(is_installed, LOOPS)]
        if unknown := [name for name in loops if not is_installed(name)]:
            sys.exit(f"not installed: {', '.join(unknown)}")
        selected = select(options.only, options.skip)
        for workload in [*selected]:
            if why := obstacle(workload):
                print(f"{workload.name}: left out, {why}", file=sys.stderr)
                selected.remove(workload)
        facts = machine.describe(loops)
        facts["Method"] = (
            f"{options.rounds} rounds of fresh processes, one per loop, "
            f"in turns of {rounds.TURN} s; {CLOCKS[options.clock]}"
        )
        try:
            table = compare(selected, loops, options)
        except KeyboardInterrupt:
            return 130
    if options.json:
        store.save(options.json, facts, loops, table)
    if options.results:
        report.write(options.results, facts, loops, table, options.baseline, options.note)
    print(report.table(loops, table, options.baseline))
    ours = loops[0]
    return int(any(s.failure(ours) for s in table) if ours == "ferroloop" else False)


if __name__ == "__main__":
    sys.exit(main())
