"""The faults, and the processes in which they are injected."""

import errno
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import faults
from .faults import MIXED, SHORT

ROOT = Path(__file__).resolve().parent.parent.parent
FOREVER = 1 << 40

# What any call may return when a sandbox filters it, or the kernel has run out of a resource.
FILTERED = ("EPERM", "ENOSYS")

# The errors of the manual pages that a program can encounter, without those for wrong arguments.
MANUAL = {
    "recv": "EAGAIN ECONNREFUSED ECONNRESET EINTR ENOMEM ENOBUFS ENOTCONN ETIMEDOUT EHOSTUNREACH",
    "recvfrom": "EAGAIN ECONNREFUSED ECONNRESET EINTR ENOMEM ENOBUFS ENETDOWN",
    "recvmsg": "EAGAIN ECONNREFUSED EINTR ENOMEM",
    "send": "EACCES EAGAIN ECONNRESET EINTR EMSGSIZE ENOBUFS ENOMEM ENOTCONN EPIPE ETIMEDOUT",
    "sendto": "EACCES EAGAIN ECONNREFUSED EINTR EMSGSIZE ENOBUFS ENOMEM ENETUNREACH EHOSTUNREACH",
    "sendmsg": "EACCES EAGAIN ECONNRESET EINTR EMSGSIZE ENOBUFS ENOMEM EPIPE ETIMEDOUT",
    "read": "EAGAIN EINTR EIO ENOMEM",
    "write": "EAGAIN EINTR EIO ENOSPC EPIPE EDQUOT",
    "writev": "EAGAIN EINTR EIO ENOSPC EPIPE EDQUOT",
    "accept": "EAGAIN ECONNABORTED EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPROTO ENETDOWN",
    "accept4": "EAGAIN ECONNABORTED EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPROTO ENETDOWN",
    "connect": "EADDRNOTAVAIL ECONNREFUSED ENETUNREACH ETIMEDOUT EACCES",
    "socket": "EACCES EAFNOSUPPORT EMFILE ENFILE ENOBUFS ENOMEM",
    "socketpair": "EMFILE ENFILE ENOMEM",
    "getsockopt": "ENOPROTOOPT ENOMEM",
    "setsockopt": "ENOPROTOOPT ENOMEM EINVAL",
    "getsockname": "ENOBUFS",
    "getpeername": "ENOBUFS ENOTCONN",
    "shutdown": "ENOTCONN ENOMEM",
    "close": "EINTR EIO ENOSPC EDQUOT",
    "epoll_create1": "EMFILE ENFILE ENOMEM",
    "epoll_add": "ENOSPC ENOMEM EPERM",
    "epoll_mod": "ENOMEM ENOENT",
    "epoll_del": "ENOENT",
    "epoll_wait": "EINTR",
    "epoll_pwait2": "EINTR",
    "eventfd": "EMFILE ENFILE ENODEV ENOMEM",
    "pipe2": "EMFILE ENFILE",
    "dup3": "EBUSY EINTR EMFILE",
    "fcntl": "EAGAIN EINVAL",
    "ioctl": "ENOTTY EINVAL",
    "fstat": "EOVERFLOW ENOMEM",
    "poll": "EINTR ENOMEM EINVAL",
    "ppoll": "EINTR ENOMEM EINVAL",
    "waitid": "ECHILD EINTR EINVAL",
    "waitpid": "ECHILD EINTR EINVAL",
    "pidfd_open": "EINVAL EMFILE ENFILE ENODEV ENOMEM ESRCH",
    "sendfile": "EAGAIN EINVAL EIO ENOMEM EOVERFLOW",
    "getaddrinfo": "EAGAIN ENOMEM EIO",
    "pthread_create": "EAGAIN",
}
TRANSFER_CALLS = ("recv", "send", "sendmsg", "read", "write", "writev", "sendfile", "epoll_wait")
# No kernel returns these forever, and a loop may retry forever.
TRANSIENT = ("EAGAIN", "EINTR", "ECONNABORTED", "EPROTO", "ENETDOWN")
# An interpreter cannot start if a filter refuses these.
NEEDED = ("epoll_add", "epoll_mod", "epoll_del", "epoll_wait", "close", "read", "write", "fstat")

Fault = dict[str, Any]
Result = dict[str, Any]


def is_possible() -> bool:
    return sys.platform == "linux" and faults.build() is not None


class Worker:
    """A process that runs scenarios one after another, until one fails."""

    def __init__(self, loop: str) -> None:
        environment = {**os.environ, faults.PRELOAD: faults.build() or ""}
        # Passed on explicitly: a program run with -m may find the package in its own directory.
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        environment.pop("PYTHONASYNCIODEBUG", None)
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.refused.worker", loop],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.set_blocking(self.process.stderr.fileno(), False)  # type: ignore[union-attr]
        if self.line(60) != "ready\n":
            raise RuntimeError(f"the worker does not start: {self.errors()}")

    def line(self, seconds: float) -> str:
        """The next line of its output; empty if it exited or took too long."""
        output = self.process.stdout
        ready, _, _ = select.select([output], [], [], seconds)
        return output.readline() if ready else ""  # type: ignore[union-attr]

    def errors(self) -> str:
        try:
            return self.process.stderr.read() or ""  # type: ignore[union-attr]
        except TypeError:  # nothing there
            return ""

    def run(self, fault: Fault) -> Result:
        try:
            self.process.stdin.write(json.dumps(fault) + "\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass
        line = self.line(90)
        if not line:
            status = self.end()
            wrong = [f"the process has ended with {status}", *self.errors().splitlines()[:40]]
            return {"outcome": "ended", "wrong": wrong, "hits": 1, "seen": {}}
        result: Result = json.loads(line)
        errors = self.errors()
        if "panicked" in errors:
            result["wrong"] += errors.splitlines()[:10]
        return result

    def end(self) -> int:
        try:
            self.process.stdin.close()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass
        try:
            return self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def close(self) -> None:
        self.end()
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()  # type: ignore[union-attr]


def faults_of(scenario: str, seen: dict[str, int], own: bool) -> Iterator[Fault]:
    """The faults for a scenario, given the number of calls it makes of each kind."""
    for call, count in seen.items():
        filtered = () if call in NEEDED else FILTERED
        errors = dict.fromkeys([*MANUAL[call].split(), *filtered])
        numbers = [getattr(errno, name) for name in errors]
        if call in TRANSFER_CALLS:
            numbers.append(SHORT)
        for error in numbers:
            name = errno.errorcode.get(error, "")
            for first in places(count):
                fault = {"scenario": scenario, "call": call, "error": error, "own": own}
                yield {**fault, "first": first, "step": 1, "limit": 1}
            if not own or name in TRANSIENT:
                continue
            for first in (1, 1 + count // 2):
                yield {**fault, "first": first, "step": 1, "limit": FOREVER}
    for seed in range(10):
        for probability in (50, 300):
            fault = {"scenario": scenario, "call": "*", "error": MIXED, "own": own}
            yield {**fault, "first": seed, "step": probability, "limit": FOREVER}


def places(count: int) -> list[int]:
    """Which of `count` calls should fail: the first ones, some in between, the last ones."""
    found = {*range(1, 7), count // 4, count // 2, count - 1, count}
    return sorted(number for number in found if 0 < number <= count)


def describe(fault: Fault) -> str:
    """A human-readable description of a fault."""
    others = {SHORT: "short", MIXED: "mixed"}
    error = others.get(fault["error"]) or errno.errorcode[fault["error"]]
    often = "" if fault["limit"] == 1 else " and on"
    whose = "" if fault["own"] else " by any caller"
    return f"{fault['scenario']}: {fault['call']} {fault['first']}{often}: {error}{whose}"


def sweep(
    loop: str, seed: int, only: list[str], seconds: float, runs: int | None = None
) -> Iterator[tuple[Fault, Result]]:
    """Try all faults in an order determined by the seed, for at most `seconds` and `runs`; yield
    the result of each."""
    from .scenarios import SCENARIOS

    end = time.monotonic() + seconds
    chance = random.Random(seed)
    worker = Worker(loop)
    try:
        todo: list[Fault] = []
        nothing = {"call": "close", "error": errno.EIO, "first": FOREVER, "step": 0, "limit": 0}
        for scenario in only or SCENARIOS:
            for own in (True, False):
                fault = {"scenario": scenario, "own": own, **nothing}
                result = worker.run(fault)
                if result["wrong"] or result["outcome"] != "ok":
                    yield fault, {**result, "wrong": [result["outcome"], *result["wrong"]]}
                todo += faults_of(scenario, result["seen"], own)
        chance.shuffle(todo)
        for fault in todo[:runs]:
            if time.monotonic() > end:
                break
            result = worker.run(fault)
            yield fault, result
            if result["wrong"]:
                # Leftovers of one failure must not affect the next run.
                worker.close()
                worker = Worker(loop)
    finally:
        worker.close()


def repeat(fault: Fault, loop: str, times: int = 1) -> list[Result]:
    """Repeat one fault in a fresh process."""
    worker = Worker(loop)
    try:
        return [worker.run(fault) for _ in range(times)]
    finally:
        worker.close()


class Counts:
    """The number of runs, of runs that hit their fault, and of failures."""

    def __init__(self) -> None:
        self.runs = self.met = self.failed = 0

    def add(self, fault: Fault, result: Result) -> None:
        self.runs += 1
        self.met += result["hits"] > 0
        self.failed += bool(result["wrong"])

    def __str__(self) -> str:
        return f"{self.runs} runs, {self.met} met their fault, {self.failed} failed"
