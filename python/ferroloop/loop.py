"""The event loop class: a subclass of the native loop and of asyncio's own.

The native class comes first in the method resolution order. Everything that it does not define,
such as the coroutines that only orchestrate, is the code of the running version of asyncio on our
primitives, so that it behaves as users of that version expect.
"""

import asyncio
import contextvars
import functools
import inspect
import selectors
import socket
import sys
import threading
import warnings
import weakref
from asyncio import constants
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

from . import _ferroloop, _patches, connecting, diagnostics
from ._loop_views import _ReadyView, _SelectorView
from .subprocesses import _UnixSubprocessTransport, has_chosen_watcher, watch_exit

if sys.version_info >= (3, 14):
    from .subprocesses import stock_watcher
from .transports import TransportTable

if TYPE_CHECKING:
    from .metrics import LoopMetrics

_Ts = TypeVarTuple("_Ts")


# The native poller can replace a selector of one of these classes.
_STOCK_SELECTORS = frozenset(
    vars(selectors)[name]
    for name in (
        "SelectSelector",
        "PollSelector",
        "EpollSelector",
        "DevpollSelector",
        "KqueueSelector",
    )
    if name in vars(selectors)
)


def _threads_are_replaced() -> bool:
    """Whether `threading` starts something other than the interpreter's threads, such as greenlets
    after gevent's monkey-patching.
    """
    name = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
    start = getattr(threading, name, None)
    return start is not None and not isinstance(start, BuiltinFunctionType)


def _own_context(context: contextvars.Context | None) -> dict[str, contextvars.Context | None]:
    """The keyword for a connection's context, which asyncio's methods take from 3.15 on."""
    return {"context": context} if sys.version_info >= (3, 15) else {}


class _SignalPipe:
    """Stands for asyncio's socket whose descriptor the interpreter's signal handler writes to."""

    __slots__ = ("_loop",)

    def __init__(self, loop: "EventLoop") -> None:
        self._loop = weakref.ref(loop)

    def fileno(self) -> int:
        """The write end of the signal pipe; from now on this loop gets the signal numbers."""
        loop = self._loop()
        return -1 if loop is None else loop._claim_signal_pipe()

    def send(self, data: bytes) -> int:
        """Do nothing: asyncio's `_write_to_self()` wakes a loop with it; ours is already awake."""
        return len(data)


class EventLoop(_ferroloop.EventLoop, asyncio.SelectorEventLoop):
    """Event loop with scheduling, tasks, futures and I/O in Rust.

    See https://docs.python.org/3/library/asyncio-eventloop.html.
    """

    # While a loop has no `__dict__`, calls of its methods take the interpreter's fast path.
    # Programs may still set any attribute.
    __slots__ = (
        "_asyncgens",
        "_asyncgens_shutdown_called",
        "_chosen_watcher",
        "_clock_resolution",
        "_coroutine_origin_tracking_enabled",
        "_coroutine_origin_tracking_saved_depth",
        "_csock",
        "_current_handle",
        "_exception_handler",
        "_given_selector",
        "_internal_fds",
        "_old_agen_hooks",
        "_ready",
        "_scheduled",
        "_selector",
        "_signal_handlers",
        "_ssock",
        "_stock_watcher",
        "_timer_cancelled_count",
        "_transports",
        "_unix_server_sockets",
        "slow_callback_duration",
    )

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        # Not SelectorEventLoop.__init__: there is no selector and no self-pipe to make.
        asyncio.BaseEventLoop.__init__(self)
        if selector is None and selectors.DefaultSelector not in _STOCK_SELECTORS:
            # For example gevent's, which lets greenlets run.
            selector = selectors.DefaultSelector()
        self._given_selector = selector
        if selector is None or (
            type(selector) in _STOCK_SELECTORS and "select" not in vars(selector)
        ):
            self._selector: Any = _SelectorView(self)
        else:
            self._selector = selector
            selector.register(self._use_given_selector(), selectors.EVENT_READ)
        self._ready = _ReadyView(self)
        self._ssock = None
        self._csock: _SignalPipe | None = None
        self._transports = TransportTable(self)
        self._signal_handlers: dict[int, asyncio.Handle] = {}
        if sys.version_info >= (3, 13):
            self._unix_server_sockets: dict[socket.socket, int] = {}
        self._chosen_watcher: Any = None
        self._stock_watcher: Any = None
        if _threads_are_replaced():
            # The native pool's threads would block natively and prevent greenlets from running.
            from concurrent.futures import ThreadPoolExecutor

            self.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
        diagnostics.loop_made(self)

    # Stored here because a loop that the program never closed may be closed after the modules are
    # gone.
    _base_close = asyncio.BaseEventLoop.close

    def close(self) -> None:
        """Close the event loop: drop all scheduled callbacks and release its resources.

        Raises:
            RuntimeError: the loop is running.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        if sys.is_finalizing() or not self._replaced(_patches.CLOSE):
            self._close_self_pipe()
            self._base_close()
        else:
            super().close()
        if self._given_selector is not None:
            self._given_selector.close()
        self._dispose()
        self._drop_signal_handlers()

    def metrics(self) -> "LoopMetrics":
        """Return the loop's counters and its current state. Safe in any thread."""
        # Imported on first use: few programs need it, and importing dataclasses takes time.
        from .metrics import snapshot

        return snapshot(self)

    def _close_self_pipe(self) -> None:
        """Do nothing: there is no self-pipe, and the signal pipe belongs to the process."""

    def _process_events(self, event_list: list[Any]) -> None:
        """Queue the callbacks for the events of a selector that the program gave.

        Our own `_selector.select()` has already put its callbacks into the ready queue.
        """
        if self._selector is self._given_selector is not None:
            self._select(0)

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> None:
        timeouts = (ssl_handshake_timeout, ssl_shutdown_timeout)
        if self._replaced(_patches.SERVE):
            super()._start_serving(  # type: ignore[misc]
                *(protocol_factory, sock, sslcontext, server, backlog),
                *timeouts,
                **_own_context(context),
            )
            return
        if sslcontext is None:
            self._listen(protocol_factory, sock, server, backlog, context)
            return

        def serve(
            connection: socket.socket,
            extra: dict[str, Any],
            connection_context: contextvars.Context | None,
        ) -> Any:
            return self._accept_connection2(  # type: ignore[attr-defined]
                *(protocol_factory, connection, extra, sslcontext, server),
                *timeouts,
                **_own_context(connection_context),
            )

        self._listen_by_tasks(serve, sock, server, backlog, context)

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Upgrade a transport to TLS; return the transport that the protocol must use from now on.

        Raises:
            TypeError: the context is not an ssl.SSLContext, or the transport cannot be upgraded.
        """
        if self._replaced(_patches.START_TLS):
            return await super().start_tls(
                transport,
                protocol,
                sslcontext,
                server_side=server_side,
                server_hostname=server_hostname,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
        import ssl  # some interpreters are built without it

        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        tls = _ferroloop.TlsProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made=False,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        # No data may be read before connection_made() is called.
        transport.pause_reading()
        if server_side and isinstance(protocol, asyncio.StreamReaderProtocol):
            # The client may have sent the first bytes of TLS right after its last plain message.
            reader: Any = getattr(protocol, "_stream_reader", None)
            if reader is not None and reader._buffer:
                tls._incoming.write(reader._buffer)
                reader._buffer.clear()
        transport.set_protocol(tls)
        made = self.call_soon(tls.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resumed.cancel()
            raise
        finally:
            # The waiter may hold an exception whose traceback holds this frame.
            del waiter
        return tls._app_transport

    async def _create_connection_transport(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        ssl: Any,
        server_hostname: str | None,
        server_side: bool = False,
        **options: Any,
    ) -> Any:
        if not ssl:
            return await super()._create_connection_transport(  # type: ignore[misc]
                sock, protocol_factory, ssl, server_hostname, server_side, **options
            )
        try:
            sock.setblocking(False)
            if sys.version_info >= (3, 15) and options.get("context") is None:
                options["context"] = contextvars.copy_context()
            protocol = protocol_factory()
            waiter = self.create_future()
            transport = self._make_ssl_transport(  # type: ignore[attr-defined]
                sock,
                protocol,
                None if isinstance(ssl, bool) else ssl,
                waiter,
                server_side=server_side,
                server_hostname=server_hostname,
                **options,
            )
        except BaseException:
            if sys.version_info >= (3, 14, 8):  # as asyncio does from this version on
                sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        finally:
            # As above: asyncio leaves a reference cycle after a failed handshake.
            del waiter
        return transport, protocol

    if not TYPE_CHECKING:  # its type is that of asyncio's method

        @functools.wraps(asyncio.BaseEventLoop.create_connection)
        async def create_connection(
            self,
            protocol_factory: Callable[[], asyncio.BaseProtocol],
            host: Any = None,
            port: Any = None,
            **options: Any,
        ) -> Any:
            found = self._literal_address(host, port)
            # In debug mode asyncio logs the connection.
            if (
                found is None
                or self.get_debug()
                or not connecting.is_plain(options)
                or self._replaced(_patches.CONNECT)
            ):
                return await super().create_connection(protocol_factory, host, port, **options)
            return await connecting.connect(self, protocol_factory, *found)

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Like `socket.getaddrinfo()`. Literal addresses need no thread."""
        if self._replaced(_patches.RESOLVE):
            return await super().getaddrinfo(
                host, port, family=family, type=type, proto=proto, flags=flags
            )
        found = self._getaddrinfo(host, port, family, type, proto, flags)
        return found if found.__class__ is list else await found

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        """Like `socket.getnameinfo()`."""
        if self._replaced(_patches.RESOLVE):
            return await super().getnameinfo(sockaddr, flags)
        found = self._getnameinfo(sockaddr, flags)
        return found if found.__class__ is tuple else await found

    if sys.version_info >= (3, 14):

        @property
        def _watcher(self) -> Any:
            """The child watcher that asyncio would use, made when it is first read."""
            if self._chosen_watcher is not None:
                return self._chosen_watcher
            if self._stock_watcher is None:
                self._stock_watcher = stock_watcher()
            return self._stock_watcher

        @_watcher.setter
        def _watcher(self, watcher: Any) -> None:
            self._chosen_watcher = watcher

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> Any:
        if has_chosen_watcher(self) or self._replaced(_patches.SUBPROCESS):
            return await super()._make_subprocess_transport(
                protocol, args, shell, stdin, stdout, stderr, bufsize, extra, **kwargs
            )
        waiter = self.create_future()
        transport = _UnixSubprocessTransport(
            self,
            protocol,
            args,
            shell,
            stdin,
            stdout,
            stderr,
            bufsize,
            waiter=waiter,
            extra=extra,
            **kwargs,
        )
        watch_exit(self, transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            await transport._give_up()
            raise
        return transport

    def _drop_signal_handlers(self) -> None:
        if not self._signal_handlers:
            return
        if sys.is_finalizing():
            # As if from asyncio's own `close()`, for warning filters by module.
            warnings.warn_explicit(
                f"Closing the loop {self!r} on interpreter shutdown stage, "
                "skipping signal handlers removal",
                ResourceWarning,
                asyncio.unix_events.__file__,
                asyncio.unix_events._UnixSelectorEventLoop.close.__code__.co_firstlineno + 7,
                module=asyncio.unix_events.__name__,
                source=self,
            )
            self._signal_handlers.clear()
            return
        for signum in list(self._signal_handlers):
            self.remove_signal_handler(signum)

    def add_signal_handler(
        self, sig: int, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts
    ) -> None:
        """Call ``callback(*args)`` from the loop when the signal arrives.

        Raises:
            ValueError: the signal number is invalid or cannot be caught.
            RuntimeError: the calling thread is not the main thread.
        """
        if self._csock is None:
            self._csock = _SignalPipe(self)
        try:
            super().add_signal_handler(sig, callback, *args)
        finally:
            if not self._signal_handlers:  # refused
                self._release_signal_pipe()

    def remove_signal_handler(self, sig: int) -> bool:
        """Restore the signal's default handler; return whether the loop had a handler.

        Raises:
            ValueError: the signal number is invalid.
        """
        removed = super().remove_signal_handler(sig)
        if removed and not self._signal_handlers:
            self._release_signal_pipe()
        return removed


def _resemble_asyncio() -> None:
    """Give the methods the signatures of asyncio's methods in the running version."""
    for name, function in vars(EventLoop).items():
        model = getattr(asyncio.SelectorEventLoop, name, None)
        if name.startswith("_"):
            continue
        if isinstance(function, FunctionType) and isinstance(model, FunctionType):
            function.__signature__ = inspect.signature(model)  # type: ignore[attr-defined]


_resemble_asyncio()
_patches.note_class(EventLoop)
Loop = EventLoop


def _imported_by_the_extension() -> None:
    """Never called. Shows tools that scan for imports, such as those that freeze programs, which
    modules the extension module imports by name on demand."""
    from . import call_graph, thread_pool  # noqa: F401


def new_event_loop() -> EventLoop:
    """Return a new event loop."""
    return EventLoop()
