"""Connects to a literal address, which needs only a part of `create_connection()`: no DNS lookup,
no choice between addresses, no TLS.
"""

import asyncio
import contextvars
import inspect
import socket
import sys
from asyncio import base_events
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import EventLoop

#: The keywords of `create_connection()` in the running version.
_KEYWORDS = inspect.signature(asyncio.BaseEventLoop.create_connection).parameters.keys()
#: The keywords whose default is zero.
_NUMBERS = frozenset(("family", "proto", "flags"))

_NON_BLOCKING = getattr(socket, "SOCK_NONBLOCK", 0)


def is_plain(options: dict[str, Any]) -> bool:
    """Whether the keywords of `create_connection()` request a plain connection only."""
    for name, value in options.items():
        if value is None or (name == "ssl" and value is False):
            continue
        if name not in _NUMBERS or value != 0:
            return False
    return options.keys() <= _KEYWORDS


async def connect(
    loop: "EventLoop",
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    family: int,
    address: Any,
) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
    """Connect to one address, as `create_connection()` does after the DNS lookup.

    Raises:
        OSError: the connection failed.
    """
    # Looked up where asyncio looks it up, because some tests replace it there.
    sock = base_events.socket.socket(  # type: ignore[attr-defined]
        family, socket.SOCK_STREAM | _NON_BLOCKING, socket.IPPROTO_TCP
    )
    try:
        if not _NON_BLOCKING:
            sock.setblocking(False)
        await loop.sock_connect(sock, address)
        options: dict[str, Any] = {}
        if sys.version_info >= (3, 15):
            options["context"] = contextvars.copy_context()
        protocol = protocol_factory()
        waiter = loop.create_future()
        transport = loop._make_socket_transport(sock, protocol, waiter, **options)
    except BaseException:
        sock.close()
        raise
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport, protocol
