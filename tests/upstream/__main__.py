"""Runs the test suites of other projects on asyncio and on ferroloop, and compares.

A suite also runs on ferroloop by its pytest plugin if `suites.py` says so.

    python -m tests.upstream --wheel WHEEL [--only SUITES] [--files GLOBS] [--loops NAMES]
                             [--markdown FILE]

Each suite has its own environment under build/upstream, with the wheel; each of its files runs in a
separate process. Failed tests are run again on every loop, up to three times; only a test that
fails every time counts as failed. The status is 1 if a test fails on ferroloop alone and
expected.txt does not explain it. Standard library only.
"""

import argparse
import contextlib
import fnmatch
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from ..debian_root import UnavailableError
from .outcomes import Explanation, Outcomes, explained, explanations
from .sources import fetch
from .suites import SUITES, Suite

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "upstream"
LOOPS = ("asyncio", "ferroloop", "plugin")
BY_PLUGIN = ("-p", "ferroloop.pytest", "--ferroloop")
FILE_LIMIT = 900
"""Seconds for one file of tests."""
REPEATS = 3


class Runner:
    """Runs the tests of one suite."""

    def __init__(self, suite: Suite, wheel: Path) -> None:
        self.suite = suite
        version = f"py{sys.version_info[0]}.{sys.version_info[1]}"
        self.environment = BUILD / f"{suite.name}-{version}"
        self.tree = BUILD / f"{suite.name}-{suite.version}"
        self.wheel = wheel

    def prepare(self) -> None:
        """Fetch and install what is missing; always reinstall ferroloop."""
        if not self.tree.is_dir():
            fetch(self.suite, self.tree)
        python = self.environment / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        requirements = HERE / "requirements" / f"{self.suite.name}.txt"
        ready = self.environment / ".ready"
        if not ready.is_file() or ready.read_bytes() != requirements.read_bytes():
            shutil.rmtree(self.environment, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", self.environment], check=True)
            subprocess.run([*pip, "--requirement", requirements], check=True)
            shutil.copyfile(requirements, ready)
        subprocess.run([*pip, "--force-reinstall", "--no-deps", self.wheel], check=True)

    def files(self, globs: list[str]) -> list[str]:
        """The test files, as paths in the tree; or the module that runs them all."""
        if self.suite.module:
            return [self.suite.module]
        found = sorted(
            str(path.relative_to(self.tree)) for path in self.tree.glob("tests/**/test_*.py")
        )
        return [file for file in found if any(fnmatch.fnmatch(file, glob) for glob in globs)]

    def command(self, loop: str, tests: list[str]) -> list[str | Path]:
        """The command that runs these tests."""
        binaries = self.environment / "bin"
        if module := self.suite.module:
            names = [test for test in tests if test != module and "::" not in test]
            return [binaries / "python", "-m", "upstream_unittest", module, *names]
        plugins = ["-p", "upstream_outcomes", "-p", "no:cacheprovider"]
        plugins += BY_PLUGIN if loop == "plugin" else ()
        return [binaries / "pytest", *plugins, *self.suite.options, *tests]

    def run(self, file: str, loop: str, tests: list[str] | None = None) -> Outcomes:
        """Run a file, or some of its tests."""
        record = BUILD / "outcomes.jsonl"
        record.unlink(missing_ok=True)
        paths = [HERE / "plugin", *([HERE / "on_ferroloop"] if loop == "ferroloop" else [])]
        environment = {
            **os.environ,
            **self.suite.environment,
            "PATH": f"{self.environment / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "UPSTREAM_OUTCOMES": str(record),
        }
        with (BUILD / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                self.command(loop, tests or [file]),
                cwd=self.tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(FILE_LIMIT)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return Outcomes.read(record, file, "asyncio" if loop == "asyncio" else "ferroloop")

    def compare(self, file: str, loops: list[str]) -> tuple[dict[str, Outcomes], set[str]]:
        """Run a file on the loops, repeating on all of them what failed on one. Returns the
        outcomes, in which a flaky test that passed when repeated counts as passed, and the ids of
        those flaky tests."""
        found = {loop: self.run(file, loop) for loop in loops}
        flaky: set[str] = set()
        for _ in range(REPEATS):
            failed = {test for outcomes in found.values() for test in outcomes.failed()}
            # What fails on every loop is not repeated.
            failed -= set.intersection(*(outcomes.failed() for outcomes in found.values()))
            if not failed:
                break
            for loop, outcomes in found.items():
                again = sorted(failed & outcomes.failed())
                if not again:
                    continue
                for test, outcome in self.run(file, loop, again).tests.items():
                    if outcome[0] != "failed" and test in failed:
                        outcomes.tests[test] = outcome
                        flaky.add(test)
        return found, flaky


def run_suite(
    runner: Runner, files: list[str], loops: list[str], known: list[Explanation]
) -> tuple[list[str], bool]:
    """Run the suite; returns its row of the table and whether there is no unexplained failure."""
    suite = runner.suite
    loops, asked = [loop for loop in loops if loop in suite.loops], loops
    if not loops:
        return [str(suite), *("" for _ in asked)], True
    total = {loop: Outcomes() for loop in loops}
    for file in files:
        started = time.monotonic()
        found, flaky = runner.compare(file, loops)
        for loop, outcomes in found.items():
            total[loop].tests |= outcomes.tests
        counts = "; ".join(f"{loop} {outcomes.count()}" for loop, outcomes in found.items())
        print(f"{suite.name} {file}: {counts} ({time.monotonic() - started:.0f} s)", flush=True)
        for test in sorted(flaky):
            print(f"    passed when repeated: {test}")
    counts = (total[loop].count() if loop in loops else "" for loop in asked)
    return [str(suite), *counts], report(suite, total, known)


def report(suite: Suite, total: dict[str, Outcomes], known: list[Explanation]) -> bool:
    """Print what failed, unless it failed on asyncio too; return whether all of it is explained."""
    good = True
    theirs = total["asyncio"].failed() if len(total) > 1 and "asyncio" in total else set()
    for loop, outcomes in total.items():
        for test in sorted(outcomes.failed() - theirs):
            reason = explained(suite.name, test, known)
            good = good and reason is not None
            error = outcomes.tests[test][1]
            print(f"    failed on {loop}: {test}: {reason or 'NOT EXPLAINED: ' + error}")
        for test in sorted(theirs - outcomes.failed()):
            print(f"    failed on asyncio, not on {loop}: {test}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--only", default="*", metavar="GLOBS", help="names of suites")
    parser.add_argument("--files", default="*", metavar="GLOBS", help="as in 'tests/test_web*'")
    parser.add_argument("--loops", default=",".join(LOOPS), metavar="NAMES")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    args = parser.parse_args()
    loops = args.loops.split(",")
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "output.txt").unlink(missing_ok=True)
    known, rows, good = explanations(), [], True
    for suite in SUITES:
        if not any(fnmatch.fnmatch(suite.name, glob) for glob in args.only.split(",")):
            continue
        runner = Runner(suite, args.wheel.resolve())
        try:
            runner.prepare()
        except UnavailableError as error:
            print(f"{suite} is NOT RUN: {error}", flush=True)
            rows.append([str(suite), *("not run" for _ in loops)])
            good = False
            continue
        row, passed = run_suite(runner, runner.files(args.files.split(",")), loops, known)
        rows.append(row)
        good = good and passed
    lines = [["suite", *loops], ["---"] * (1 + len(loops)), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(f"\n{table}\n\nwhat the suites printed: {BUILD / 'output.txt'}", flush=True)
    if args.markdown:
        args.markdown.write_text(table + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
