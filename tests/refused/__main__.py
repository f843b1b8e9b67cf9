"""Makes every system call fail in every way, one at a time, under small programs.

    python -m tests.refused [--seconds N] [--seed N] [--loop asyncio] [--only SCENARIO]...
    python -m tests.refused --fault '{"scenario": "tcp", ...}'

Without a limit it tries all combinations, in an order determined by the seed. See README.md.
"""

import argparse
import json
import sys
import time

from . import sweep


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.refused", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loop", default="ferroloop")
    parser.add_argument("--only", action="append", default=[], metavar="SCENARIO")
    parser.add_argument("--fault", help="repeat one run: what a failed one has printed")
    parser.add_argument("--outcomes", action="store_true", help="print how each run ended")
    arguments = parser.parse_args()
    if not sweep.is_possible():
        print("skipped: there is no C compiler, or this is not Linux")
        return 0
    if arguments.fault:
        (result,) = sweep.repeat(json.loads(arguments.fault), arguments.loop)
        print(json.dumps(result, indent=1))
        return bool(result["wrong"])
    began = time.monotonic()
    counts = sweep.Counts()
    for fault, result in sweep.sweep(
        arguments.loop, arguments.seed, arguments.only, arguments.seconds
    ):
        counts.add(fault, result)
        if arguments.outcomes:
            print(sweep.describe(fault), result["outcome"], flush=True)
        if result["wrong"]:
            print(
                sweep.describe(fault), json.dumps(fault), *result["wrong"], sep="\n    ", flush=True
            )
    print(f"{counts}, {time.monotonic() - began:.0f} s, seed {arguments.seed}")
    return bool(counts.failed)


sys.exit(main())
