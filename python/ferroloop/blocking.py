"""What a callback that took long did: whether it computed, blocked, or was not let run.

    with ferroloop.name_blocking_calls(allow=["import"]):
        ferroloop.run(main())

Reports of the watchdog and of slow callbacks tell CPU time from other time. While
`name_blocking_calls()` is in effect, they also name the call that blocked, as far as the
interpreter raises an audit event for it: files, `time.sleep()` (from Python 3.13 on), DNS lookups,
connections, child processes, databases, imports.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any, NamedTuple

from . import _ferroloop

_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

# Calls that are kept for each thread that runs a loop.
_KEPT = 64


class TimeSpent(NamedTuple):
    """How a thread spent the time of a stall or of a callback, in seconds.

    The kernel counts the CPU time and the wait for a processor. What the thread waited for
    otherwise is known from samples that the watchdog takes.
    """

    total: float
    """The duration."""
    cpu: float
    """CPU time: Python code or C code computed."""
    run_delay: float | None
    """The thread could have run, but other threads or processes had all processors."""
    gil: float | None
    """Estimated time of waiting for the GIL; None without samples."""
    system_call: str | None
    """The system call in which a sample last found the thread waiting for anything else."""

    @property
    def blocked(self) -> float:
        """The rest: time in calls that block, and in waiting for the GIL if `gil` is None."""
        return max(0.0, self.total - self.cpu - (self.run_delay or 0.0) - (self.gil or 0.0))

    @property
    def cause(self) -> str:
        """What most of the time was spent on: "computing", "blocked", "blocked or waiting for the
        GIL", "waiting for the GIL" or "waiting for a processor".
        """
        rest = "blocked or waiting for the GIL" if self.gil is None else "blocked"
        shares = [
            (self.cpu, "computing"),
            (self.blocked, rest),
            (self.gil or 0.0, "waiting for the GIL"),
            (self.run_delay or 0.0, "waiting for a processor"),
        ]
        return max(shares, key=lambda share: share[0])[1]

    def __str__(self) -> str:
        parts = [self.cause]
        if self.cause == "blocked" and self.system_call is not None:
            parts[0] += f" in {self.system_call}"
        parts.append(f"CPU time {self.cpu:.3f} s")
        if self.run_delay is not None:
            parts.append(f"waiting for a processor {self.run_delay:.3f} s")
        if self.gil:
            parts.append(f"waiting for the GIL about {self.gil:.3f} s")
        return ", ".join(parts)


# CPU time and wait for a processor in seconds; samples at the GIL, and waiting for anything else;
# the system call of the latter.
Readings = tuple[float, float | None, int, int, str | None]


def time_spent(total: float, readings: Readings | None, sampled: bool) -> TimeSpent | None:
    """Return what the readings of a thread say about an interval.

    Args:
        total: its duration in seconds.
        readings: what the kernel has counted; None if it does not.
        sampled: whether samples were taken.
    """
    if readings is None:
        return None
    cpu, run_delay, at_gil, waiting, call = readings
    # The readings were taken a little earlier and later than the interval began and ended.
    cpu = min(cpu, total)
    if run_delay is not None:
        run_delay = min(run_delay, total - cpu)
    rest = total - cpu - (run_delay or 0.0)
    samples = at_gil + waiting
    gil = None
    if sampled:
        gil = rest * at_gil / samples if samples else 0.0
    return TimeSpent(total, cpu, run_delay, gil, call)


class BlockingCall(NamedTuple):
    """A call that may block, known from an audit event."""

    event: str
    """The name of the audit event, such as "open" or "socket.getaddrinfo"."""
    call: str
    """The call, such as "open('/etc/hosts')"; without arguments that may be secret."""
    function: str
    """Qualified name of the function of the program that made the call."""
    file: str
    """Its source."""
    line: int
    """The line of the call."""
    at: float
    """When the call began, on the clock of `time.monotonic()`."""
    seconds: float
    """Until the next such call or the end of the callback: at least as long as the call took."""
    allowed: bool
    """Whether `allow` includes it."""

    def __str__(self) -> str:
        where = f"{self.function} ({self.file}:{self.line})"
        return f"{self.call} in {where} took up to {self.seconds:.3f} s"


def _first(name: str) -> Callable[[tuple[Any, ...]], str]:
    return lambda args: f"{name}({args[0]!r})" if args else f"{name}()"


def _bare(name: str) -> Callable[[tuple[Any, ...]], str]:
    return lambda args: f"{name}()"


def _popen(args: tuple[Any, ...]) -> str:
    # The arguments of a program may contain passwords.
    return f"subprocess.Popen({args[0]!r})"


def _lookup(args: tuple[Any, ...]) -> str:
    return f"socket.getaddrinfo({args[0]!r}, {args[1]!r})"


def _connect(args: tuple[Any, ...]) -> str:
    return f"socket.connect({args[1]!r})"


_NAMED: dict[str, Callable[[tuple[Any, ...]], str]] = {
    **{
        event: _first(event)
        for event in (
            *("open", "import", "ctypes.dlopen", "time.sleep", "sqlite3.connect"),
            *("os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir"),
            *("os.truncate", "os.walk", "glob.glob", "tempfile.mkdtemp", "tempfile.mkstemp"),
            *("shutil.copyfile", "shutil.copytree", "shutil.move", "shutil.rmtree"),
            *("shutil.make_archive", "shutil.unpack_archive"),
            *("socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"),
        )
    },
    **{
        event: _bare(event)
        for event in (
            *("os.system", "os.fork", "os.forkpty", "fcntl.flock", "fcntl.lockf"),
            *("ftplib.connect", "imaplib.open", "poplib.connect", "smtplib.connect"),
            *("http.client.connect", "urllib.Request"),
        )
    },
    "socket.getaddrinfo": _lookup,
    "socket.connect": _connect,
    "subprocess.Popen": _popen,
}


class _Noted(NamedTuple):
    """A call as the hook keeps it."""

    at: float
    event: str
    call: str
    code: CodeType
    line: int
    allowed: bool


_noted: dict[int, deque[_Noted]] = {}
_active: list[BlockingCalls] = []
_hooked = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    """Notes calls of threads that run one of our loops. An audit hook, which stays for good."""
    if not _active or event not in _NAMED:
        return
    loop = asyncio._get_running_loop()
    if loop is None or not isinstance(loop, _ferroloop.EventLoop):
        return
    try:
        _note(event, args, sys._getframe(1))
    except Exception:  # an audit hook that raises would make the call fail
        return


def _note(event: str, args: tuple[Any, ...], frame: FrameType | None) -> None:
    allowed, innermost, place = False, frame, None
    functions = {name for each in _active for name in each._functions}
    while frame is not None and (place is None or functions):
        code = frame.f_code
        if place is None and _is_program(code.co_filename):
            place = frame
        if functions and f"{os.path.basename(code.co_filename)}:{code.co_name}" in functions:
            allowed = True
            break
        frame = frame.f_back
    allowed = allowed or any(event in each._events for each in _active)
    place = place or innermost
    if place is None:
        return
    kept = _noted.get(threading.get_ident())
    if kept is None:
        kept = _noted[threading.get_ident()] = deque(maxlen=_KEPT)
    text = _NAMED[event](args)
    text = text if len(text) <= 200 else text[:197] + "..."
    kept.append(_Noted(time.monotonic(), event, text, place.f_code, place.f_lineno, allowed))


def _is_program(file: str) -> bool:
    """Whether a file is neither of the standard library nor of the import machinery."""
    if file.startswith("<frozen "):
        return False
    return not file.startswith(_LIBRARY) or any(part in file for part in _PACKAGES)


def longest_call(thread: int | None, since: float, until: float) -> BlockingCall | None:
    """Return the call that took longest of those that began in an interval, as far as known.

    Args:
        thread: `threading.get_ident()` of the loop's thread.
        since: the begin of the interval, on the clock of `time.monotonic()`.
        until: its end.
    """
    calls = [each for each in list(_noted.get(thread or 0, ())) if since <= each.at <= until]
    if not calls:
        return None
    ends = [*(each.at for each in calls[1:]), until]
    found = [
        BlockingCall(
            each.event,
            each.call,
            each.code.co_qualname,
            each.code.co_filename,
            each.line,
            each.at,
            end - each.at,
            each.allowed,
        )
        for each, end in zip(calls, ends, strict=True)
    ]
    return max(found, key=lambda call: call.seconds)


def native_thread_id(ident: int) -> int:
    """Return the kernel's number of a thread of `threading`; 0 if it is not known."""
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.native_id or 0
    return 0


class BlockingCalls:
    """What `ferroloop.name_blocking_calls()` returns. A context manager."""

    def __init__(self, allow: Iterable[str] = ()) -> None:
        if isinstance(allow, str):
            raise TypeError("allow must be an iterable of strings, not a string")
        entries = frozenset(allow)
        self._functions = frozenset(entry for entry in entries if ":" in entry)
        self._events = entries - self._functions
        unknown = sorted(self._events - _NAMED.keys())
        if unknown:
            raise ValueError(f"allow: {unknown[0]!r} is neither a known event nor FILE:FUNCTION")
        global _hooked
        if not _hooked:
            sys.addaudithook(_hook)
            _hooked = True
        _active.append(self)

    def stop(self) -> None:
        """Stop noting calls. The audit hook stays, and does nothing. May be called repeatedly."""
        if self in _active:
            _active.remove(self)
        if not _active:
            _noted.clear()

    def __enter__(self) -> BlockingCalls:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class SlowCallback(NamedTuple):
    """A callback that took long, as the attribute `slow_callback` of the log record."""

    seconds: float
    """Its duration."""
    spent: TimeSpent | None
    """How its thread spent that time; None if the system does not tell."""
    call: BlockingCall | None
    """The call that took longest, while `name_blocking_calls()` is in effect."""
    context: contextvars.Context | None
    """A copy of its context."""


def log_slow_callback(
    logger: Any,
    described: Any,
    shown: str,
    started: float,
    seconds: float,
    readings: Readings | None,
    debug: bool,
) -> None:
    """Log a slow callback of the loop that runs in this thread. Called by the loop.

    Args:
        logger: asyncio's logger.
        described: the handle, or the task whose step it was.
        shown: asyncio's description of it.
        started: when it started, on the clock of `time.monotonic()`.
        seconds: its duration.
        readings: what the kernel has counted meanwhile.
        debug: whether the loop is in debug mode, in which the text is exactly asyncio's.
    """
    call = longest_call(threading.get_ident(), started, started + seconds)
    spent = time_spent(seconds, readings, sampled=False)
    context = context_of(described)
    extra = {"slow_callback": SlowCallback(seconds, spent, call, context)}
    text, arguments = "Executing %s took %.3f seconds", [shown, seconds]
    if debug:
        logger.warning(text, *arguments, extra=extra)
        return
    if call is not None and call.allowed and 2 * call.seconds >= seconds:
        return
    for more in (spent, call):
        if more is not None:
            text, arguments = text + "; %s", [*arguments, str(more)]
    # In the callback's context, for logging filters that read context variables.
    run = contextvars.copy_context().run if context is None else context.run
    run(logger.warning, text, *arguments, extra=extra)


def context_of(owner: Any) -> contextvars.Context | None:
    """Return a copy of the context of a task or handle; None if it does not tell its context."""
    get_context = getattr(owner, "get_context", None)
    context: contextvars.Context | None = None if get_context is None else get_context()
    return None if context is None else context.copy()
