"""Leak checks: a snapshot before each test, a comparison after it.

A closed loop leaves no task, future or handle alive after a garbage collection, no open
descriptor and no thread, and there is no log record or warning that the test did not expect.
"""

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

LINUX = sys.platform == "linux"
DESCRIPTORS = "/proc/self/fd" if LINUX else "/dev/fd"

# How long threads may take to exit after the call that tells them to.
THREADS_GRACE = 3.0


def watched_classes(modules: Iterable[object]) -> tuple[type, ...]:
    """The classes whose instances are counted."""
    modules = list(modules)
    names = ("Future", "Task", "Handle", "TimerHandle", "EventLoop")
    found = [asyncio.Future, asyncio.Task, asyncio.Handle, asyncio.BaseEventLoop]
    found += [asyncio.futures._PyFuture, asyncio.tasks._PyTask, asyncio.BaseTransport]
    native = ("Transport", "TlsProtocol", "TlsTransport")
    found += [getattr(m._ferroloop, n) for m in modules if m is not asyncio for n in native]
    # asyncio has the name EventLoop since 3.12.1; its instances count as BaseEventLoop.
    found += [getattr(m, name) for m in modules for name in names if m is not asyncio]
    return tuple(dict.fromkeys(found))


class Snapshot:
    """The state of the process at one moment."""

    def __init__(self, classes: tuple[type, ...]) -> None:
        self.classes = classes
        self.descriptors = open_descriptors()
        self.threads = set(threading.enumerate())
        self.native_threads = native_threads()
        self.objects = self.live()

    def live(self) -> dict[int, object]:
        # type(), not isinstance(): an arbitrary object's __class__ may run code.
        objects = gc.get_objects()
        kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, self.classes)}
        return {id(o): o for o in objects if type(o) in kinds}

    def leaks(self) -> list[str]:
        """What exists now and did not exist in the snapshot, one line each."""
        # Threads first, and with a grace period: until they exit, their frames keep objects alive.
        threads = self.leaked_threads()
        return [*self.leaked_objects(), *self.leaked_descriptors(), *threads]

    def leaked_objects(self) -> list[str]:
        gc.collect()
        new = [o for i, o in self.live().items() if i not in self.objects]
        counted = Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in new)
        shown = [f"alive: {count} x {name}" for name, count in counted.items()]
        return shown + [f"alive: {o!r}" for o in new[:5]]

    def leaked_descriptors(self) -> list[str]:
        now = open_descriptors()
        return [
            f"open: descriptor {fd} {target}"
            for fd, target in now.items()
            if self.descriptors.get(fd) != target
        ]

    def leaked_threads(self) -> list[str]:
        end = time.monotonic() + THREADS_GRACE
        while time.monotonic() < end and (
            native_threads() > self.native_threads or set(threading.enumerate()) - self.threads
        ):
            time.sleep(0.005)
        lines = [f"running: {t}" for t in set(threading.enumerate()) - self.threads]
        extra = native_threads() - self.native_threads
        return lines or ([f"running: {extra} native threads"] if extra > 0 else [])


def open_descriptors() -> dict[int, str]:
    """Every open descriptor of this process and what it refers to."""
    found = {}
    for entry in os.listdir(DESCRIPTORS):
        with contextlib.suppress(OSError):  # the listing's own descriptor
            if LINUX:
                found[int(entry)] = os.readlink(f"{DESCRIPTORS}/{entry}")
            else:
                status = os.fstat(int(entry))
                found[int(entry)] = f"device {status.st_dev} inode {status.st_ino}"
    return found


def native_threads() -> int:
    """The number of OS threads, or 0 where the system does not tell."""
    if not LINUX:
        return 0
    names = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            names.append((thread / "comm").read_text().strip())
    # Without a GIL this one lets threads in that wait for a busy loop; it ends by itself.
    return sum(name != "ferroloop secti" for name in names)


class LogCatcher(logging.Handler):
    """Keeps what is logged to the `asyncio` logger until a test takes it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def take(self) -> list[logging.LogRecord]:
        """Return the records so far, marking them as expected."""
        taken, self.records = self.records, []
        return taken

    def messages(self) -> list[str]:
        """Like take(), but only the texts."""
        return [record.getMessage() for record in self.take()]

    def unexpected(self) -> list[str]:
        """The records that no test took, except debug mode's slow-callback reports, which depend
        on the speed of the machine."""
        return [
            f"logged: {text}"
            for text in (logging.Formatter().format(record) for record in self.records)
            if not text.startswith("Executing ")
        ]
