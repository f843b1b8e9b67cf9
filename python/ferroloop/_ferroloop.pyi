"""The native module: the part of it that the package's own Python code uses.

isinstance() accepts the native classes as asyncio's, so they are declared as subclasses of those.
"""

import asyncio
import socket
import ssl
import sys
from _socket import _CMSG, _Address, _CMSGArg
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from types import CodeType, ModuleType
from typing import Any, Self, TypeVar, final

from _typeshed import ReadableBuffer, WriteableBuffer

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

__version__: str
_GUARDED: tuple[str, ...]
_C_API: object

def after_fork() -> None: ...
def probed_offsets() -> list[tuple[str, bool]]: ...
def live_loops() -> list[EventLoop]: ...
def live_tasks() -> list[asyncio.Task[object]]: ...
def thread_stack(thread: int) -> list[tuple[CodeType, int, dict[str, Any]]]: ...
def is_listed(task: Task[Any]) -> bool: ...
def register_streams(
    reader: type[asyncio.StreamReader], writer: type[asyncio.StreamWriter]
) -> None: ...
def set_listed(task: Task[Any], listed: bool) -> None: ...
def join_task_lists(module: ModuleType, make: Callable[[str], asyncio.Task[None]]) -> bool: ...

if sys.version_info >= (3, 14):
    def add_to_awaited_by(fut: object, waiter: object, /) -> None: ...
    def discard_from_awaited_by(fut: object, waiter: object, /) -> None: ...
    def recorded_waiters(task: Task[Any]) -> list[asyncio.Future[Any]]: ...

def share_task_counter(module: ModuleType, make: Callable[[], int]) -> bool: ...

class EventLoop:
    """The native half of the event loop: the first base of `ferroloop.EventLoop`."""

    busy_poll: float | None
    def _watched_events(self, fd: int) -> int: ...
    def _watched_descriptors(self) -> list[int]: ...
    def _watched_handles(self, fd: int) -> tuple[asyncio.Handle | None, asyncio.Handle | None]: ...
    def _watch_handles(
        self, fd: int, reader: asyncio.Handle | None, writer: asyncio.Handle | None
    ) -> None: ...
    def _replaced(self, bits: int) -> bool: ...
    def _dispose(self) -> None: ...
    @property
    def _thread_id(self) -> int | None: ...
    def _ready_count(self) -> int: ...
    def _take_ready(self) -> asyncio.Handle: ...
    def _ready_handles(self) -> list[asyncio.Handle]: ...
    def _set_ready_handles(self, handles: list[asyncio.Handle]) -> None: ...
    def _queue_handle(self, handle: asyncio.Handle) -> None: ...
    def _add_callback(self, handle: asyncio.Handle) -> None: ...
    def _select(self, timeout: float | None) -> int: ...
    def _use_foreign_select(self, foreign: bool) -> None: ...
    def _use_given_selector(self) -> int: ...
    def report_slow_callbacks(self, enabled: bool = True, /) -> None: ...
    def sock_sendmsg(
        self,
        sock: socket.socket,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[_CMSGArg] = (),
        flags: int = 0,
        address: _Address | None = None,
    ) -> Coroutine[Any, Any, int]: ...
    def sock_recvmsg(
        self, sock: socket.socket, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> Coroutine[Any, Any, tuple[bytes, list[_CMSG], int, Any]]: ...
    def sock_recvmsg_into(
        self,
        sock: socket.socket,
        buffers: Iterable[WriteableBuffer],
        ancbufsize: int = 0,
        flags: int = 0,
    ) -> Coroutine[Any, Any, tuple[int, list[_CMSG], int, Any]]: ...
    def _metrics(self) -> dict[str, Any]: ...
    def _ensure_fd_no_transport(self, fd: object) -> None: ...
    def _transport_of(self, fd: int) -> Transport | None: ...
    def _release_transport_of(self, fd: int) -> bool: ...
    def _claim_transport(self, transport: object) -> bool: ...
    def _listen(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        server: object,
        backlog: int,
        context: Context | None,
    ) -> None: ...
    def _listen_by_tasks(
        self,
        serve: Callable[[socket.socket, dict[str, Any], Context | None], Coroutine[Any, Any, None]],
        sock: socket.socket,
        server: object,
        backlog: int,
        context: Context | None,
    ) -> None: ...
    if sys.version_info >= (3, 15):
        def _make_socket_transport(
            self,
            sock: object,
            protocol: asyncio.BaseProtocol,
            waiter: asyncio.Future[Any] | None = None,
            *,
            extra: dict[str, Any] | None = None,
            server: object = None,
            context: Context | None = None,
        ) -> StreamTransport: ...
    else:
        def _make_socket_transport(
            self,
            sock: object,
            protocol: asyncio.BaseProtocol,
            waiter: asyncio.Future[Any] | None = None,
            *,
            extra: dict[str, Any] | None = None,
            server: object = None,
        ) -> StreamTransport: ...
    def _literal_address(self, host: Any, port: Any) -> tuple[int, Any] | None: ...
    def _getaddrinfo(
        self,
        host: Any,
        port: Any,
        family: int,
        type: int,
        proto: int,
        flags: int,
    ) -> Any: ...
    def _getnameinfo(self, sockaddr: Any, flags: int) -> Any: ...
    def _claim_signal_pipe(self) -> int: ...
    def _release_signal_pipe(self) -> None: ...
    def _watch_child(
        self,
        pid: int,
        callback: Callable[[_T, int | None], object],
        argument: _T,
    ) -> bool: ...
    # Methods of asyncio's BaseSelectorEventLoop that typeshed leaves out.
    def _make_self_pipe(self) -> None: ...
    def _close_self_pipe(self) -> None: ...
    async def _make_subprocess_transport(
        self,
        protocol: object,
        args: object,
        shell: bool,
        stdin: object,
        stdout: object,
        stderr: object,
        bufsize: int,
        extra: object = None,
        **kwargs: object,
    ) -> asyncio.SubprocessTransport: ...

@final
class StreamReaderState:
    """The attributes of an `asyncio.StreamReader` with native methods."""

    def __new__(cls) -> Self: ...
    def note_attribute(self) -> None: ...
    _buffer: Any
    _limit: int
    _eof: bool
    _paused: bool
    _waiter: Any
    _exception: Any
    _transport: Any
    _loop: Any

@final
class Watchdog:
    """The native half of `ferroloop.watchdog.Watch`: the target of its thread."""

    def __new__(
        cls,
        threshold: float,
        report: Callable[[Any, float, float, bool, bool, Any], object],
        loop: EventLoop | None = None,
    ) -> Self: ...
    def __call__(self) -> None: ...
    def stop(self) -> None: ...

class ThreadPool:
    """The native half of `ferroloop.thread_pool.ThreadPool`."""

    def __new__(cls, max_workers: int, thread_name_prefix: str, /) -> Self: ...
    def _queued(self) -> int: ...

class Future(asyncio.Future[_T]): ...

class Task(asyncio.Task[_T_co]):
    def get_context(self) -> Context: ...

class Handle(asyncio.Handle):
    # Also on 3.11, where asyncio's Handle has none; Task likewise.
    def get_context(self) -> Context: ...

class TimerHandle(asyncio.TimerHandle): ...
class Transport(asyncio.Transport): ...

@final
class StreamTransport(Transport): ...

@final
class TlsTransport(asyncio.Transport): ...

@final
class TlsProtocol(asyncio.BufferedProtocol):
    """TLS, as the protocol of a transport; replaces asyncio.sslproto.SSLProtocol."""

    def __new__(
        cls,
        loop: EventLoop,
        app_protocol: object,
        sslcontext: object,
        waiter: asyncio.Future[None] | None,
        server_side: bool = False,
        server_hostname: str | None = None,
        call_connection_made: bool = True,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Self: ...
    @property
    def _app_transport(self) -> TlsTransport | None: ...
    @property
    def _incoming(self) -> ssl.MemoryBIO: ...

@final
class DatagramTransport(Transport, asyncio.DatagramTransport):
    def send_segments(
        self,
        data: bytes | bytearray | memoryview,
        size: int,
        addr: tuple[object, ...] | str | None = None,
    ) -> None: ...

@final
class ReadPipeTransport(asyncio.ReadTransport): ...

@final
class WritePipeTransport(asyncio.WriteTransport): ...
