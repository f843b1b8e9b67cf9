"""Thousands of connections that write, stall, reset, abort and end, and are replaced.

    python -m tests.stress [--seconds 120] [--connections 2000] [--seed N] [--kind tcp,unix,tls]
                           [--loop ferroloop|asyncio]

For each kind in turn, that many connections at a time run for that many seconds: protocols,
asyncio's streams and plain sockets talk to each other, with partial writes, small buffers, pauses,
half-closes, closes with data buffered, aborts and resets. Afterwards every byte that had to arrive
must have arrived, every connection must have ended once at both ends, descriptors, memory and
registrations must have been released, and the idle loop must sleep. The status is 1 if any check
failed.
"""

import argparse
import asyncio
import importlib
import logging
import random
import resource
import sys

from .traffic import KINDS, Result, stress


def factory(name: str):
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    return importlib.import_module(name).new_event_loop


def table(results: list[Result]) -> str:
    """The results and failures as a table."""
    lines = [f"{'kind':6}{'scenario':12}{'connections':>12}{'MiB':>8}"]
    for result in results:
        for scenario in sorted(result.ended):
            received = result.received[scenario] >> 20
            lines.append(f"{result.kind:6}{scenario:12}{result.ended[scenario]:12}{received:8}")
        lines.append(
            f"{result.kind:6}{'afterwards':12}{result.memory / (1 << 20):+.1f} MiB of memory, "
            f"{result.share:.1%} of the processor"
        )
        for failure, times in result.failures.most_common():
            lines.append(f"{result.kind:6}WRONG {failure} ({times})")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--kind", default=",".join(KINDS), metavar="KINDS")
    parser.add_argument("--loop", default="ferroloop", choices=["ferroloop", "asyncio", "uvloop"])
    args = parser.parse_args()
    # Two descriptors for each connection, and those not yet closed.
    needed = 3 * args.connections + 1000
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, most), most))
    print(f"stress: {args.loop}, {args.connections} connections, seed {args.seed}", flush=True)
    # asyncio logs writes to aborted connections.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    results = []
    for kind in args.kind.split(","):
        with asyncio.Runner(loop_factory=factory(args.loop)) as runner:
            run = stress(kind, args.connections, args.seconds, args.seed)
            results.append(runner.run(run))
        print(table(results[-1:]), flush=True)
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
