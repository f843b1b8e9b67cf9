"""Finds what tools have replaced in asyncio's classes, and which native methods must not run then.

Native code notices that a class has changed (`src/ffi/guard.rs`); this module finds what has
changed. A function counts as asyncio's own if the module of its class made it, under its own name,
and it still has the code that it had when it was first seen: some tools assign `__code__`.
"""

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
import weakref
from asyncio import events, futures, sslproto, tasks
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

from . import _ferroloop

# Bits that native code or `loop.py` queries.
CALL_SOON = 1
TIME = 2
RUN_ONCE = 4
CLOSE = 8
CONNECT = 16
RESOLVE = 32
SERVE = 64
START_TLS = 128
SUBPROCESS = 256

# Typed as Any, because the stubs of these modules leave out private names.
_selector: Any = sys.modules["asyncio.selector_events"]
_unix: Any = sys.modules["asyncio.unix_events"]

_SHADOWED = asyncio.SelectorEventLoop

_CHECKS = ("_check_closed", "_check_thread", "_check_callback")
_WATCHING = ("_add_reader", "_add_writer", "_remove_reader", "_remove_writer")
_ACCEPT = ("_accept_connection", "_accept_connection2")
_SOON = ("call_soon", *_CHECKS, "_call_soon", "<handle>")
_THREADSAFE = ("call_soon_threadsafe", *_SOON[1:], "_write_to_self")
_TIMERS = ("call_at", *_CHECKS, "<handle>", "_timer_handle_cancelled")
_WATCHERS = (*_WATCHING, *_SOON)
_SOCKET = (*_WATCHERS, "_sock_read_done", "_sock_write_done", "_ensure_fd_no_transport")
_STREAMS = ("_make_socket_transport", "<socket transport>", *_WATCHERS)

# What asyncio's own method calls and ours does not: if one of these is replaced, asyncio's own
# method runs. Names in angle brackets are classes.
_CALLS: dict[str, tuple[str, ...]] = {
    "call_soon": _SOON[1:],
    "call_soon_threadsafe": _THREADSAFE[1:],
    "call_later": _TIMERS,
    "call_at": _TIMERS[1:],
    "create_task": ("_check_closed", "<task>"),
    "create_future": ("<future>",),
    "run_in_executor": (
        "_check_closed",
        "_check_callback",
        "_check_default_executor",
        "create_future",
        *_THREADSAFE,
        "<executor>",
    ),
    "set_debug": ("call_soon_threadsafe",),
    "run_forever": ("_run_forever_setup", "_run_forever_cleanup", "_check_running"),
    # Each undoes what the other does, so both must be asyncio's or both ours.
    "_run_forever_setup": ("_check_closed", "_check_running", "_run_forever_cleanup"),
    "_run_forever_cleanup": ("_check_closed", "_check_running", "_run_forever_setup"),
    "_add_callback_signalsafe": ("_add_callback", "_write_to_self"),
    "_add_reader": ("_check_closed", "<handle>"),
    "_add_writer": ("_check_closed", "<handle>"),
    "sock_recv": (*_SOCKET, "create_future", "_sock_recv"),
    "sock_recv_into": (*_SOCKET, "create_future", "_sock_recv_into"),
    "sock_recvfrom": (*_SOCKET, "create_future", "_sock_recvfrom"),
    "sock_recvfrom_into": (*_SOCKET, "create_future", "_sock_recvfrom_into"),
    "sock_sendall": (*_SOCKET, "create_future", "_sock_sendall"),
    "sock_sendto": (*_SOCKET, "create_future", "_sock_sendto"),
    "sock_connect": (*_SOCKET, "create_future", "_sock_connect", "_sock_connect_cb"),
    "sock_accept": (*_SOCKET, "create_future", "_sock_accept"),
    "_make_socket_transport": _STREAMS[1:],
    "_make_datagram_transport": ("<datagram transport>", *_WATCHERS),
    "_make_read_pipe_transport": ("<read pipe transport>", *_WATCHERS),
    "_make_write_pipe_transport": ("<write pipe transport>", *_WATCHERS),
    "_make_ssl_transport": ("<ssl protocol>", *_STREAMS),
}

_FLAGS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (CALL_SOON, _SOON),
    (TIME, ("time",)),
    (RUN_ONCE, ("_run_once",)),
    (CLOSE, ("close",)),
    (
        CONNECT,
        (
            *("create_connection", "_create_connection_transport", "_connect_sock"),
            *("_ensure_resolved", "getaddrinfo", "sock_connect", *_CALLS["sock_connect"]),
            *_STREAMS,
        ),
    ),
    (RESOLVE, ("getaddrinfo", "getnameinfo", "run_in_executor", *_CALLS["run_in_executor"])),
    (SERVE, ("_start_serving", *_ACCEPT, "create_task", *_STREAMS)),
    (START_TLS, ("start_tls", "<ssl protocol>")),
    (SUBPROCESS, ("_make_subprocess_transport", "_child_watcher_callback")),
)

_CLASSES: dict[str, tuple[type, ...]] = {
    "<handle>": (events.Handle, events.TimerHandle),
    "<socket transport>": (_selector._SelectorSocketTransport,),
    "<datagram transport>": (_selector._SelectorDatagramTransport,),
    "<read pipe transport>": (_unix._UnixReadPipeTransport,),
    "<write pipe transport>": (_unix._UnixWritePipeTransport,),
    "<ssl protocol>": (sslproto.SSLProtocol, sslproto._SSLProtocolTransport),
    # Set by `_note_executor()`. Here already, since other threads may iterate over the dict.
    "<executor>": (),
}

# Names that asyncio looks up in its modules, with the values that count as not replaced.
_NAMES: dict[str, tuple[tuple[Any, str, tuple[Any, ...]], ...]] = {
    "<handle>": (
        (events, "Handle", (events.Handle, _ferroloop.Handle)),
        (events, "TimerHandle", (events.TimerHandle, _ferroloop.TimerHandle)),
        (contextvars, "copy_context", (contextvars.copy_context,)),
    ),
    # nest_asyncio assigns asyncio's Python task class; our tasks can be nested without it.
    "<task>": (
        (
            tasks,
            "Task",
            (tasks._CTask, tasks._PyTask, _ferroloop.Task),  # type: ignore[attr-defined]
        ),
    ),
    "<future>": (
        (
            futures,
            "Future",
            (futures._CFuture, futures._PyFuture, _ferroloop.Future),  # type: ignore[attr-defined]
        ),
    ),
    "<socket transport>": (
        (
            _selector,
            "_SelectorSocketTransport",
            (_selector._SelectorSocketTransport,),
        ),
    ),
    "<ssl protocol>": ((sslproto, "SSLProtocol", (sslproto.SSLProtocol,)),),
    "<executor>": (),
}

# Imported only when a pool is made: not every program makes blocking calls.
_THREADS = "concurrent.futures.thread"


def executor_classes() -> list[type]:
    """Return the classes that take part in a call of `run_in_executor()`."""
    from concurrent.futures import thread

    names = ("ThreadPoolExecutor", "_WorkItem", "WorkerContext")
    found = [getattr(thread, name) for name in names if hasattr(thread, name)]
    return [*found, concurrent.futures.Future, threading.Thread]


def _note_executor() -> None:
    thread = sys.modules.get(_THREADS)
    # Another thread may be importing it: what is not there yet would count as replaced later.
    spec = getattr(thread, "__spec__", None)
    if thread is None or getattr(spec, "_initializing", False) or _CLASSES["<executor>"]:
        return
    places = (
        (thread, "ThreadPoolExecutor"),
        (thread, "_WorkItem"),
        (thread, "_worker"),
        (concurrent.futures, "ThreadPoolExecutor"),
        (concurrent.futures._base, "Future"),
        (threading, "Thread"),
    )
    _NAMES["<executor>"] = tuple(
        (module, name, (getattr(module, name, None),)) for module, name in places
    )
    # Last: another thread does not wait until all is set.
    _CLASSES["<executor>"] = tuple(executor_classes())


def is_executor_replaced() -> bool:
    """Whether anything that a `ThreadPoolExecutor` calls is replaced."""
    _note_executor()
    return not _are_genuine("<executor>")


_known: dict[tuple[type, str], tuple[FunctionType, CodeType]] = {}


def _find(classes: Iterable[type], name: str) -> tuple[type, Any] | None:
    """The class in which attribute lookup finds the name, and the value there."""
    for owner in classes:
        if name in owner.__dict__:
            return owner, owner.__dict__[name]
    return None


def _written(owner: type, name: str) -> str:
    """A private name without its class prefix, as it is written in the source."""
    prefix = f"_{owner.__name__.lstrip('_')}"
    return name.removeprefix(prefix) if name.startswith(f"{prefix}__") else name


def is_genuine(owner: type, name: str) -> bool:
    """Whether a method is the one that its class was defined with."""
    function = owner.__dict__[name]
    # type(), because wrappers set `__class__` to the class of the wrapped object.
    if type(function) in (staticmethod, classmethod):
        function = function.__func__
    if (known := _known.get((owner, name))) is None:
        if type(function) is not FunctionType:
            # Slots and the like are not methods; any other callable is a replacement.
            return not callable(function) or type(function) is type
        module = sys.modules.get(owner.__module__)
        if (
            function.__globals__ is not getattr(module, "__dict__", None)
            or function.__code__.co_qualname != f"{owner.__qualname__}.{_written(owner, name)}"
            or function.__dict__
        ):
            return False
        _known[owner, name] = function, function.__code__
        return True
    return function is known[0] and function.__code__ is known[1]


def _are_methods_genuine(cls: type) -> bool:
    """Whether all methods of a class and its bases are those that the classes were defined with."""
    return all(
        (
            (known := _known.get((owner, name))) is not None
            and function is known[0]
            and known[0].__code__ is known[1]
        )
        # `_run` is handled separately, and a counter is not a method.
        or name in ("_run", "_counter")
        or not callable(function)
        or name.startswith(("__anno", "__class", "__abstract"))
        or is_genuine(owner, name)
        for owner in cls.__mro__[:-1]
        for name, function in owner.__dict__.items()
    )


def _are_genuine(name: str) -> bool:
    return all(map(_are_methods_genuine, _CLASSES.get(name, ()))) and all(
        getattr(module, attribute, None) in values
        for module, attribute, values in _NAMES.get(name, ())
    )


# Functions whose `__code__` is watched.
_EXECUTOR_FUNCTIONS = (
    *("__init__", "submit", "_adjust_thread_count", "shutdown", "run", "start"),
    *("set_result", "set_exception", "set_running_or_notify_cancel", "add_done_callback"),
)


class _Look:
    """One inspection of a loop: its class, and the names that are set on the instance."""

    def __init__(self, cls: type, own: frozenset[str]) -> None:
        self._own = own
        native = cls.__mro__.index(_ferroloop.EventLoop)
        self._above = cls.__mro__[:native]
        self._known: dict[str, bool] = {}

    def is_replaced_below(self, name: str) -> bool:
        """Whether asyncio's method was replaced, in asyncio's classes."""
        # In all of them: asyncio's methods call those of their base classes.
        owners = (owner for owner in _SHADOWED.__mro__[:-1] if name in owner.__dict__)
        return not all(is_genuine(owner, name) for owner in owners)

    def _is_replaced_above(self, name: str) -> bool:
        if name in self._own:
            return True
        found = _find(self._above, name)
        return found is not None and found[1] is not _ours.get(name)

    def is_replaced(self, name: str) -> bool:
        """Whether a call of a method reaches a function that is neither asyncio's nor ours."""
        if (known := self._known.get(name)) is None:
            if name.startswith("<"):
                known = not _are_genuine(name)
            else:
                known = self._is_replaced_above(name) or self.is_replaced_below(name)
            self._known[name] = known
        return known

    def are_replaced(self, names: Iterable[str]) -> bool:
        """Whether any of the methods is replaced."""
        return any(map(self.is_replaced, names))


# The attributes with which our loop class is defined, filled by `note_class()`.
_ours: dict[str, Any] = {}


def note_class(cls: type) -> type:
    """Remember the attributes with which our own loop class is defined."""
    _ours.update(cls.__dict__)
    return cls


def _nothing() -> None:
    """Stands for a method that the running version of asyncio does not have."""


def _function(owner_and_value: tuple[type, Any] | None) -> Any:
    value = owner_and_value[1] if owner_and_value is not None else None
    return value if type(value) is FunctionType else _nothing


_Found = tuple[int, int, Any, list[Any]]
_Key = tuple[int, ...]
# The result of the last inspection of a loop of each class.
_found: weakref.WeakKeyDictionary[type, tuple[_Key, _Found]] = weakref.WeakKeyDictionary()
_NAMES_ASKED = frozenset(
    name for names in (*_CALLS.values(), *dict(_FLAGS).values()) for name in names
)


def watched_classes() -> list[type]:
    """The classes whose versions native code compares, in addition to the loop's class."""
    return [cls for name, classes in _CLASSES.items() if name != "<executor>" for cls in classes]


def look(loop: Any, versions: tuple[int, ...] | None, has_own: bool) -> _Found:
    """Return four values: the guarded methods that must not run natively, the bits, the replacement
    of `asyncio.Handle._run` or None, and the functions whose code is watched.

    `versions` are those of the classes; None if a version is unknown or the code of a function has
    changed. `has_own` says whether the loop has attributes in a dict: reading `__dict__` would
    create the dict, and make method calls slower from then on.
    """
    _note_executor()
    own = _NAMES_ASKED.intersection(vars(loop)) if has_own else frozenset[str]()
    if versions is None or own:
        return _look(loop, own)
    names = (id(vars(module).get(name)) for places in _NAMES.values() for module, name, _ in places)
    key = (*versions, *names)
    cls = type(loop)
    if (known := _found.get(cls)) is not None and known[0] == key:
        return known[1]
    found = _look(loop, own)
    _found[cls] = key, found
    return found


def _look(loop: Any, own: frozenset[str]) -> _Found:
    seen = _Look(type(loop), own)
    diverted = 0
    for slot, name in enumerate(_ferroloop._GUARDED):
        if seen.is_replaced_below(name) or seen.are_replaced(_CALLS.get(name, ())):
            diverted |= 1 << slot
    flags = sum(flag for flag, names in _FLAGS if seen.are_replaced(names))
    run = None if is_genuine(events.Handle, "_run") else events.Handle._run
    functions = [_function(_find(_SHADOWED.__mro__, name)) for name in _ferroloop._GUARDED]
    functions.append(_function(_find(events.Handle.__mro__, "_run")))
    functions += [
        _function((cls, cls.__dict__.get(name)))
        for cls in _CLASSES.get("<executor>", ())
        for name in _EXECUTOR_FUNCTIONS
        if name in cls.__dict__
    ]
    # A lookup makes the interpreter assign a version to a class.
    for cls in (type(loop), *(cls for classes in _CLASSES.values() for cls in classes)):
        getattr(cls, "__init__", None)
    return diverted, flags, run, functions
