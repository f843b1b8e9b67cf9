#!/usr/bin/env python3
"""Run CPython's own asyncio test-suite against another event loop.

    python run_cpython.py LOOPMODULE [--task-future] [-j JOBS] [-k PATTERN]
                                     [--json OUT] [--expected FILE]

The tests are the running interpreter's `test.test_asyncio` package; nothing is
copied from it.  See README.md beside this file for what is run, what is left
out and why.  Standard library only; CPython 3.11 - 3.15; Linux.

Process layout: this file is the parent, worker.py the worker.  The parent asks
one worker to list the tests, then runs every test class in a separate worker,
up to --jobs of them at a time.  A worker announces each test before running
it, so if it crashes or hangs, only that test is recorded as crashed or timed
out, and a fresh worker continues with the next test of the class.
"""

import argparse
import concurrent.futures
import contextlib
import fnmatch
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time

try:
    from families import LEFT_OUT_MODULES
except ImportError:  # when imported from elsewhere
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from families import LEFT_OUT_MODULES

HERE = os.path.dirname(os.path.abspath(__file__))
BAD = ("failed", "crashed", "timeout")
WORDS = {
    "passed": "passed",
    "failed": "failed",
    "skipped": "skipped",
    "crashed": "crashed",
    "timeout": "timed out",
}


# --------------------------------------------------------------------------
# parent
# --------------------------------------------------------------------------


def parse_args(argv):
    p = argparse.ArgumentParser(description="Run CPython's test.test_asyncio against LOOPMODULE.")
    p.add_argument(
        "loopmodule",
        metavar="LOOPMODULE",
        help="importable module with new_event_loop(), Loop, "
        "EventLoop or EventLoopPolicy; or MODULE:FACTORY",
    )
    p.add_argument(
        "--task-future",
        action="store_true",
        help="also run the Task/Future families with LOOPMODULE.Task and LOOPMODULE.Future",
    )
    p.add_argument(
        "--only",
        choices=("loop", "task-future"),
        help="run just one of the two halves (--only task-future implies --task-future)",
    )
    p.add_argument(
        "-m",
        "--module",
        action="append",
        default=[],
        metavar="TEST_MODULE",
        help="e.g. test_tasks; repeatable",
    )
    p.add_argument(
        "-k",
        metavar="PATTERN",
        action="append",
        default=[],
        help="fnmatch pattern or substring of a test id; repeatable",
    )
    p.add_argument("--json", metavar="OUT", help="write every outcome here")
    p.add_argument(
        "--expected",
        metavar="FILE",
        action="append",
        default=[],
        help="list of tests allowed to fail; repeatable",
    )
    p.add_argument(
        "--timeout", type=float, default=45.0, metavar="S", help="per test (default %(default)s)"
    )
    p.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="DIR",
        help="prepended to the workers' sys.path; repeatable",
    )
    p.add_argument(
        "--net",
        choices=("auto", "own", "host"),
        default="auto",
        help="own: workers get a network namespace with only the "
        "loopback device; auto: own where allowed",
    )
    p.add_argument(
        "-j",
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="test classes that run at a time (default: the number of processors)",
    )
    p.add_argument(
        "--no-retry",
        action="store_true",
        help="do not run a failed test once more in a separate process; for finding flaky tests",
    )
    p.add_argument(
        "--run-left-out",
        action="store_true",
        help="also run the tests (not the classes) that are left "
        "out, for curiosity: they are expected to fail",
    )
    p.add_argument("--list", action="store_true", help="list test ids, run none")
    p.add_argument(
        "--list-left-out", action="store_true", help="print what is left out and why, run none"
    )
    p.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="print every test and the whole traceback of failures",
    )
    args = p.parse_args(argv)
    if args.only == "task-future":
        args.task_future = True
    return args


def worker_cmd(args, request):
    return [
        sys.executable,
        "-X",
        "faulthandler",
        "-W",
        "ignore",
        os.path.join(HERE, "worker.py"),
        json.dumps(request),
    ]


def base_request(args):
    return {
        "loop": args.loopmodule,
        "task_future": args.task_future,
        "path": [os.path.abspath(p) for p in args.path] + [HERE],
        "net": args.net,
        "run_left_out": args.run_left_out,
    }


class Worker:
    """One worker process and the stream of events it writes."""

    def __init__(self, args, request, cwd):
        self.rfd, wfd = os.pipe()
        request = dict(request, fd=wfd)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.proc = subprocess.Popen(
            worker_cmd(args, request),
            cwd=cwd,
            pass_fds=[wfd],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        os.close(wfd)
        self.buf = b""
        self.eof = False

    def events(self, deadline):
        """The next batch of events; [] on deadline; None at end of stream."""
        while True:
            if b"\n" in self.buf:
                *lines, self.buf = self.buf.split(b"\n")
                return [json.loads(x) for x in lines]
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            # Poll the process too: a grandchild may keep the pipe open.
            r, _, _ = select.select([self.rfd], [], [], min(left, 0.5))
            if r:
                data = os.read(self.rfd, 1 << 16)
                if not data:
                    return None
                self.buf += data
            elif self.proc.poll() is not None:
                return None

    def kill(self):
        """SIGABRT first, so that faulthandler writes the stacks."""
        for sig, grace in ((signal.SIGABRT, 3.0), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.proc.pid, sig)
            try:
                self.proc.wait(grace)
                break
            except subprocess.TimeoutExpired:
                continue

    def finish(self, grace=20.0):
        """Wait for the exit; returns the return code, or 'hung'."""
        try:
            rc = self.proc.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
            rc = "hung"
        self.reap()
        return rc

    def reap(self):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.proc.pid, signal.SIGKILL)  # stray children of tests
        os.close(self.rfd)

    def tail(self, n=3000):
        self.log.seek(0, 2)
        size = self.log.tell()
        self.log.seek(max(0, size - n))
        return self.log.read().decode("utf-8", "replace")


def collect(args):
    with tempfile.TemporaryDirectory() as cwd:
        w = Worker(args, dict(base_request(args), collect=True), cwd)
        deadline = time.monotonic() + 120
        out = []
        while True:
            evs = w.events(deadline)
            if evs is None or evs == []:
                break
            out += evs
        rc = w.finish()
        if rc != 0 or not out:
            sys.stderr.write(w.tail())
            sys.stderr.write(f"\ncannot list the tests (worker: {rc})\n")
            raise SystemExit(2)
        return out[-1]


def wanted(args, test):
    if args.module and test.split(".")[0] not in args.module:
        return False
    if args.k:
        return any(fnmatch.fnmatchcase(test, k) or k in test for k in args.k)
    return True


def run_class(args, cls, tests, report):
    """Run the tests of one class; report(test, outcome, detail, extra)."""
    todo = list(tests)
    fruitless = 0
    while todo:
        with tempfile.TemporaryDirectory(prefix="conf") as cwd:
            w = Worker(args, dict(base_request(args), cls=cls, tests=todo), cwd)
            current, started = None, time.monotonic()
            progress, hung, last = 0, False, None

            while True:
                evs = w.events(started + args.timeout)
                if evs is None:
                    break
                if not evs:
                    hung = True
                    w.kill()
                    break
                for ev in evs:
                    started = time.monotonic()
                    if ev["ev"] == "start":
                        current = ev["id"]
                    elif ev["ev"] == "end":
                        current, last = None, ev["id"]
                        if ev["id"] in todo:
                            todo.remove(ev["id"])
                            progress += 1
                            report(
                                ev["id"],
                                ev["outcome"],
                                ev["detail"],
                                {"seconds": ev["seconds"], "loops": ev["loops"]},
                            )
                    elif ev["ev"] == "class":
                        # setUpClass/setUpModule failed or skipped: the rest
                        # of the class cannot run.
                        for t in todo:
                            report(t, ev["outcome"], ev["detail"], {})
                        progress += len(todo)
                        todo = []
            rc = w.finish()
            if hung or rc != 0:
                hung = hung or rc == "hung"
                name = rc
                if isinstance(rc, int) and rc < 0:
                    with contextlib.suppress(ValueError):
                        name = signal.Signals(-rc).name
                kind = "timeout" if hung else "crashed"
                head = f"no result after {args.timeout:g} s" if hung else f"worker ended: {name}"
                detail = head + "\n" + w.tail()
                if current is not None:
                    if current in todo:
                        todo.remove(current)
                    report(current, kind, detail, {})
                elif todo and not progress:
                    # crashed before the first test, e.g. on import
                    fruitless += 1
                    if fruitless > 1:
                        t = todo.pop(0)
                        report(t, kind, "before the test began; " + detail, {})
                elif not todo:
                    # Everything was reported, then the worker crashed on exit.
                    report(
                        f"{cls}.(after {last.rsplit('.', 1)[-1]})" if last else f"{cls}.(exit)",
                        kind,
                        detail,
                        {},
                    )
                else:
                    report(f"{cls}.(after {last.rsplit('.', 1)[-1]})", kind, detail, {})
            elif todo and not progress:
                for t in todo:
                    report(t, "failed", "the worker did not run it\n" + w.tail(), {})
                todo = []


def run_with_retry(args, family, tests, cls):
    """Run one class, then retry its failed tests alone; return the outcomes."""
    batch = []

    def report(test, outcome, detail, extra):
        batch.append({"id": test, "family": family, "outcome": outcome, "detail": detail, **extra})

    run_class(args, cls, tests, report)
    if args.no_retry or len(tests) == 1:
        return batch
    first, again = batch, [r for r in batch if r["outcome"] == "failed"]
    batch = []
    for r in again:
        run_class(args, cls, [r["id"]], report)
    alone = {r["id"]: r for r in batch}
    for r in first:
        if r["outcome"] == "failed" and r["id"] in alone:
            if alone[r["id"]]["outcome"] == "passed":
                r.update(outcome="passed", retried=True)
            else:
                r.update(outcome=alone[r["id"]]["outcome"], detail=alone[r["id"]]["detail"])
    return first


def read_expected(files):
    """One `<test id or fnmatch pattern>  <reason>` per line; # starts a comment.
    `[py<3.12]`, `[py==3.13]`, ... before the id limits a line to versions, `[without GIL]` to
    free-threaded builds."""
    out = []
    without_gil = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    here = sys.version_info[:2]
    for name in files:
        with open(name, encoding="utf-8") as f:
            for n, line in enumerate(f, 1):
                line = line.strip()
                if not line or line.startswith("#"):
                    continue
                applies = True
                if line.startswith("[without GIL]"):
                    applies, line = without_gil, line.removeprefix("[without GIL]")
                elif line.startswith("[py"):
                    cond, _, line = line[3:].partition("]")
                    for op in ("<=", ">=", "==", "<", ">"):
                        if cond.startswith(op):
                            ver = tuple(map(int, cond[len(op) :].split(".")))
                            applies = {
                                "<=": here <= ver,
                                ">=": here >= ver,
                                "==": here == ver,
                                "<": here < ver,
                                ">": here > ver,
                            }[op]
                            break
                    else:
                        raise SystemExit(f"{name}:{n}: bad version condition")
                test, _, reason = line.strip().partition(" ")
                if not reason.strip():
                    raise SystemExit(f"{name}:{n}: {test} has no reason")
                if applies:
                    out.append((test, reason.strip()))
    return out


def counts(results):
    c = dict.fromkeys(WORDS, 0)
    for r in results:
        c[r["outcome"]] += 1
    return c


def words(c):
    return ", ".join(f"{c[k]} {WORDS[k]}" for k in WORDS)


def show(args, r):
    """Print a line for each test that did not pass on the first attempt."""
    test, outcome, detail = r["id"], r["outcome"], r["detail"] or ""
    lines = [x for x in detail.splitlines() if x.strip()]
    first = ""
    if lines and outcome in (*BAD, "passed"):
        first = ": " + lines[0 if outcome in ("crashed", "timeout") else -1]
    if r.get("retried"):
        print(
            f"RETRIED   {test}: failed among the others, passed alone; {first[2:160]}", flush=True
        )
    elif outcome in BAD or args.verbose:
        print(f"{WORDS[outcome].upper():9} {test}{first[:200]}", flush=True)
    if args.verbose and outcome in BAD:
        print("    " + detail.replace("\n", "\n    "), flush=True)


def main(argv=None):
    args = parse_args(argv)
    expected = read_expected(args.expected)
    plan = collect(args)
    if unknown := plan["modules_unknown"]:
        raise SystemExit(
            "families.py says nothing about these test modules, neither how they run nor why "
            f"not: {', '.join(unknown)}"
        )
    if args.list_left_out:
        for mod, why in LEFT_OUT_MODULES.items():
            print(f"{mod}  (module)  {why}")
        for test, why in plan["left_out"]:
            print(f"{test}  {why}")
        return 0

    classes = {}
    for fam, cls, tests in plan["classes"]:
        if args.only and fam != args.only:
            continue
        tests = [t for t in tests if wanted(args, t)]
        if tests:
            classes[cls] = (fam, tests)
    if args.list:
        for _, tests in classes.values():
            print("\n".join(tests))
        return 0
    for mod, why in plan["modules_skipped"]:
        print(f"MODULE SKIPPED {mod}: {why}")

    results = []
    t0 = time.monotonic()
    print(
        f"{plan['python']}, loop {plan['loop']}, "
        f"{sum(len(t) for _, t in classes.values())} tests in "
        f"{len(classes)} classes, network: {plan['net']}",
        flush=True,
    )
    # The largest classes first, so that none runs alone at the end.
    order = sorted(classes, key=lambda cls: -len(classes[cls][1]))
    done = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        jobs = {pool.submit(run_with_retry, args, *classes[cls], cls): cls for cls in order}
        for job in concurrent.futures.as_completed(jobs):
            batch = job.result()
            for r in batch:
                show(args, r)
            results += batch
            done += 1
            if done % 20 == 0:
                print(
                    f"... {done} of {len(classes)} classes, {len(results)} "
                    f"tests, {time.monotonic() - t0:.0f} s",
                    flush=True,
                )

    print()
    bymod = {}
    for r in results:
        key = r["id"].split(".")[0]
        if r["family"] == "task-future":
            key += " (task-future)"
        bymod.setdefault(key, []).append(r)
    width = max(map(len, bymod), default=0)
    for key in sorted(bymod):
        print(f"{key:{width}}  {words(counts(bymod[key]))}")
    loop = [r for r in results if r["family"] == "loop"]
    inert = sum(r["outcome"] == "passed" and r.get("loops") == 0 for r in loop)
    total = counts(results)
    if loop and len(loop) != len(results):
        for fam in ("loop", "task-future"):
            c = counts([r for r in results if r["family"] == fam])
            print(f"{fam} half: {words(c)}")
    retried = sum(bool(r.get("retried")) for r in results)
    if retried:
        print(
            f"{retried} of the passed failed among the other tests of their "
            f"class and passed alone (flaky, or another test left a mess)"
        )
    if inert:
        print(
            f"of the loop tests passed, {inert} never created the loop under "
            f"test (they pass on any loop)"
        )
    print(f"{time.monotonic() - t0:.0f} s")

    bad = {r["id"]: r for r in results if r["outcome"] in BAD}
    unexpected = dict(bad)
    stale = []
    if args.expected:
        ran = {r["id"]: r for r in results}
        for pat, _reason in expected:
            hit = [t for t in ran if fnmatch.fnmatchcase(t, pat)]
            for t in hit:
                unexpected.pop(t, None)
            if hit and not any(t in bad for t in hit):
                stale.append(pat)
        for t in unexpected:
            print(f"NOT EXPECTED TO FAIL: {t}")
        for t in stale:
            print(f"listed but passes now, take it off the list: {t}")
        print(
            f"{len(bad)} not passing, {len(bad) - len(unexpected)} of them "
            f"listed, {len(unexpected)} not"
        )

    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(
                {
                    "python": plan["python"],
                    "loop": args.loopmodule,
                    "network": plan["net"],
                    "counts": total,
                    "inert_passes": inert,
                    "retried": retried,
                    "left_out": plan["left_out"],
                    "left_out_modules": LEFT_OUT_MODULES,
                    "modules_skipped": plan["modules_skipped"],
                    "tests": {r.pop("id"): r for r in results},
                },
                f,
                indent=1,
            )
    print(f"overall: {words(total)}")
    # One line in the form that CI parsers look for; tests listed in --expected
    # are not counted as failed in it.
    print(f"CI: {total['passed']} passed, {len(unexpected)} failed, {total['skipped']} skipped")
    if not results:
        return 2
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
