"""Runs the programs on asyncio and on ferroloop, and ends with a table.

    python -m tests.ecosystem [--quick] [--only GLOBS] [--loops NAMES] [--markdown FILE] [--list]

Every program runs in a separate process, once for each loop. A failure on asyncio as well is not
ferroloop's fault; the status is 1 if anything fails on ferroloop alone, or on the only loop run.
"""

import argparse
import datetime
import fnmatch
import platform
import subprocess
import sys
from pathlib import Path

from . import outcome, services
from .catalogue import PROGRAMS, Program
from .loops import NAMES
from .outcome import Outcome

Results = dict[Program, dict[str, Outcome]]


def install_services(programs: list[Program], may_install: bool) -> None:
    """Report which services are missing, or install them from Debian's packages."""
    needed = {service for program in programs for service in program.services}
    packages = sorted(filter(None, map(services.missing, needed)))
    if not packages:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if may_install:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    else:
        print("Missing services; programs that need them are not run. To install them:")
        print(f"    sudo {' '.join(command)}\n", flush=True)


def run(programs: list[Program], loops: list[str]) -> Results:
    results: Results = {}
    for program in programs:
        results[program] = {}
        for loop in loops:
            found = outcome.run(program, loop)
            results[program][loop] = found
            print(f"{program.name:26} {loop:10} {found}", flush=True)
            if found.output:
                print("    " + found.output.replace("\n", "\n    "), flush=True)
    return results


def table(results: Results, loops: list[str]) -> str:
    """The results as a Markdown table."""
    rows = [["program", "versions", *loops], ["---"] * (2 + len(loops))]
    for program, found in results.items():
        cells = [str(found[loop]) for loop in loops]
        rows.append([program.title, program.versions(), *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    today = datetime.datetime.now(datetime.UTC).date()
    return "\n".join([f"CPython {platform.python_version()}, {today}", "", *lines, ""])


def failed(found: dict[str, Outcome]) -> bool:
    """Whether a program failed although asyncio passed, or on the only loop run."""
    bad = [loop for loop, it in found.items() if not it.passed and "missing" not in it.verdict]
    return bool(bad) and (len(found) == 1 or bad == ["ferroloop"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ecosystem", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only what needs no service")
    parser.add_argument("--only", default="*", metavar="GLOBS", help="names of programs")
    parser.add_argument("--loops", default=",".join(NAMES), metavar="NAMES")
    parser.add_argument("--install", action="store_true", help="apt-get missing services")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--list", action="store_true", help="list the programs and end")
    args = parser.parse_args()
    programs = [
        program
        for program in PROGRAMS
        if any(fnmatch.fnmatch(program.name, glob) for glob in args.only.split(","))
        and (program.quick or not args.quick)
    ]
    if not programs:
        parser.error(f"no program is called {args.only!r}")
    if args.list:
        print(*(f"{program.name:26} {program.title}" for program in programs), sep="\n")
        return 0
    install_services(programs, args.install)
    loops = args.loops.split(",")
    results = run(programs, loops)
    text = table(results, loops)
    print(f"\n{text}", flush=True)
    if args.markdown:
        args.markdown.write_text(text)
    return 1 if any(map(failed, results.values())) else 0


if __name__ == "__main__":
    sys.exit(main())
