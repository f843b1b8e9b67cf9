"""The socket that lets the same user inspect a running program.

    ferroloop.serve_introspection()     # then, elsewhere: python -m ferroloop top PID

The request is one line of JSON, and so is the answer; then the connection ends. The requests, none
of which changes anything:

    {"command": "metrics"}                  the loops and their metrics
    {"command": "tasks"}                    the tasks of all loops, and where each waits
    {"command": "stack", "task": "Task-1"}  the tasks of that name or id, with their whole stacks

Every answer has `"ok"`, true or false, and `"version"`, 1; a failure has `"error"`. Times are in
seconds, sizes in bytes; the bound of an unbounded lag bucket is null.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import json
import os
import platform
import select
import socket
import stat
import struct
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, call_graph
from .metrics import LoopMetrics, live_loops

if TYPE_CHECKING:
    from .loop import EventLoop

VERSION = 1
_ASYNCIO = os.path.join(os.path.dirname(asyncio.__file__), "")
LONGEST_REQUEST = 64 * 1024
# A slow client must not block the others.
REQUEST_SECONDS = 2.0
ANSWER_SECONDS = 5.0

_services: weakref.WeakSet[Introspection] = weakref.WeakSet()


def runtime_directories(uid: int) -> Iterator[Path]:
    """The directories for a user's sockets: the first one that is suitable is used."""
    if uid == os.getuid() and (runtime := os.environ.get("XDG_RUNTIME_DIR")):
        yield Path(runtime)
    yield Path(f"/run/user/{uid}")
    yield Path(tempfile.gettempdir()) / f"ferroloop-{uid}"


def socket_name(pid: int) -> str:
    """The file name of the socket of a process."""
    return f"ferroloop-{pid}.sock"


def is_private(directory: Path, uid: int) -> bool:
    """Whether only the user can change the contents of the directory."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o022


def peer_of(connection: socket.socket) -> tuple[int, int] | None:
    """The process and the user of the peer; None if the system does not provide them."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    pid, uid, _gid = struct.unpack("3i", credentials)
    return pid, uid


def default_path() -> Path:
    """The path for the socket of this process, in a directory that only its user can change.

    Raises:
        PermissionError: there is no such directory.
    """
    uid = os.getuid()
    for directory in runtime_directories(uid):
        if is_private(directory, uid):
            return directory / socket_name(os.getpid())
    # Only the last directory may be created.
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    if not is_private(directory, uid):
        raise PermissionError(errno.EPERM, "others can write to the directory", str(directory))
    return directory / socket_name(os.getpid())


def _listen(path: str) -> socket.socket:
    """Bind a socket that only its owner can open."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_abandoned(path):
                raise
            os.unlink(path)
            listener.bind(path)
        # Safe, because no client can connect before listen().
        os.chmod(path, 0o600)
        listener.listen(16)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_abandoned(path: str) -> bool:
    """Whether the path is a socket of this user that no process serves."""
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.getuid():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


class Introspection:
    """A socket that a thread serves: what `ferroloop.serve_introspection()` returns."""

    path: str
    """The path of the socket."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = os.fspath(default_path() if path is None else path)
        self._pid = os.getpid()
        self._listener = _listen(self.path)
        found = os.stat(self.path)
        self._identity = (found.st_dev, found.st_ino)
        self._wake_reader, self._wake_writer = os.pipe()
        self._thread = threading.Thread(
            target=self._serve, name="ferroloop-introspection", daemon=True
        )
        self._thread.start()
        _services.add(self)
        atexit.register(self.close)

    def close(self) -> None:
        """Stop serving and remove the socket. May be called more than once."""
        if self._pid != os.getpid() or self._wake_writer < 0:
            return
        atexit.unregister(self.close)
        os.close(self._wake_writer)
        self._wake_writer = -1
        self._thread.join()
        os.close(self._wake_reader)
        self._listener.close()
        with contextlib.suppress(OSError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)

    def __enter__(self) -> Introspection:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        while True:
            if any(fd == self._wake_reader for fd, _ in poll.poll()):
                return
            # The client may have closed the connection. Out of descriptors, a later accept() may
            # succeed.
            with contextlib.suppress(OSError), self._listener.accept()[0] as connection:
                _answer(connection)

    def _abandon(self) -> None:
        """In a forked child: close the descriptors; the socket belongs to the parent."""
        if self._wake_writer >= 0:
            os.close(self._wake_writer)
            self._wake_writer = -1
            os.close(self._wake_reader)
            self._listener.close()


def _abandon_all() -> None:
    for service in list(_services):
        service._abandon()


os.register_at_fork(after_in_child=_abandon_all)


def _answer(connection: socket.socket) -> None:
    peer = peer_of(connection)
    if peer is not None and peer[1] not in (os.geteuid(), 0):
        return
    connection.settimeout(REQUEST_SECONDS)
    request = b""
    while not request.endswith(b"\n") and len(request) < LONGEST_REQUEST:
        received = connection.recv(4096)
        if not received:
            break
        request += received
    try:
        answer = {"ok": True, "version": VERSION, **handle(json.loads(request))}
    except (ValueError, LookupError) as error:
        answer = {"ok": False, "version": VERSION, "error": str(error)}
    except Exception as error:  # from objects of the program
        text = f"{type(error).__name__}: {error}"
        answer = {"ok": False, "version": VERSION, "error": text}
    connection.settimeout(ANSWER_SECONDS)
    connection.sendall(json.dumps(answer).encode() + b"\n")


def handle(request: Any) -> dict[str, Any]:
    """Answer a request.

    Raises:
        ValueError: the request is invalid.
        LookupError: there is no such task.
    """
    match request:
        case {"command": "metrics"}:
            return {**_process(), "loops": [_loop(loop) for loop in live_loops()]}
        case {"command": "tasks"}:
            return {**_process(), "tasks": list(_tasks(whole=False))}
        case {"command": "stack", "task": str(wanted)}:
            found = [task for task in _tasks(whole=True) if wanted in (task["name"], task["id"])]
            if not found:
                raise LookupError(f"there is no task {wanted!r}")
            return {**_process(), "tasks": found}
    raise ValueError("the command must be metrics, tasks, or stack with a task")


def _process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "program": sys.argv[0] if sys.argv else "",
        "python": platform.python_version(),
        "ferroloop": __version__,
    }


def metrics_as_json(metrics: LoopMetrics) -> dict[str, Any]:
    """The metrics by name, in a form that JSON can represent."""
    shown = {each.name: getattr(metrics, each.name) for each in fields(metrics)}
    shown["transports"] = dict(metrics.transports)
    shown["pool"] = None if metrics.pool is None else asdict(metrics.pool)
    lag = asdict(metrics.lag)
    lag["buckets"] = [
        [None if bound == float("inf") else bound, count] for bound, count in metrics.lag.buckets
    ]
    for name in ("p50", "p90", "p99"):
        lag[name] = getattr(metrics.lag, name)
    shown["lag"] = lag
    shown["time_busy"], shown["utilization"] = metrics.time_busy, metrics.utilization
    return shown


def _loop(loop: EventLoop) -> dict[str, Any]:
    return {
        "id": hex(id(loop)),
        "running": loop.is_running(),
        "debug": loop.get_debug(),
        "thread": loop._thread_id,
        "metrics": metrics_as_json(loop.metrics()),
    }


def _tasks(whole: bool) -> Iterator[dict[str, Any]]:
    for loop in live_loops():
        current = asyncio.current_task(loop)
        tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
        for task in tasks:
            yield _task(loop, task, task is current, whole)


def _is_asyncio(location: call_graph.Location) -> bool:
    return location.file.startswith(_ASYNCIO)


def _task(loop: EventLoop, task: asyncio.Task[Any], runs: bool, whole: bool) -> dict[str, Any]:
    stack = (
        call_graph.thread_stack(loop._thread_id)
        if runs
        else call_graph.coroutine_stack(task.get_coro())
    )
    awaits = call_graph.awaited_object(task)
    shown: dict[str, Any] = {
        "id": hex(id(task)),
        "loop": hex(id(loop)),
        "name": task.get_name(),
        "coroutine": call_graph.coroutine_name(task),
        "state": "running" if runs else "ready" if awaits is None else "waiting",
        "awaits": awaits,
        "where": asdict(stack[-1]) if stack else None,
        "caller": next((asdict(each) for each in reversed(stack) if not _is_asyncio(each)), None),
    }
    if whole:
        shown["stack"] = [asdict(location) for location in stack]
        shown["awaited_by"] = [other.get_name() for other in call_graph.awaiting_tasks(task)]
        shown["await_chain"] = [other.get_name() for other in call_graph.await_chain(task)]
    return shown
