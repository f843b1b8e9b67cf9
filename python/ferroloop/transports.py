"""The table ``loop._transports`` that asyncio's own code reads and writes.

Native transports own their descriptors without an entry here. The table shows them too, and stores
the transports that are not native, as asyncio's table does.
"""

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _TransportDictionary = weakref.WeakValueDictionary[int, Any]
else:
    _TransportDictionary = weakref.WeakValueDictionary


class TransportTable(_TransportDictionary):
    """Open transports by descriptor."""

    def __init__(self, loop: Any) -> None:
        super().__init__()
        self._loop = weakref.ref(loop)

    def _native(self, fd: int) -> Any:
        loop = self._loop()
        return None if loop is None else loop._transport_of(fd)

    def __getitem__(self, fd: int) -> Any:
        transport = self._native(fd)
        return super().__getitem__(fd) if transport is None else transport

    def get(self, fd: int, default: Any = None) -> Any:
        """Return the transport that owns a descriptor."""
        transport = self._native(fd)
        return super().get(fd, default) if transport is None else transport

    def __contains__(self, fd: object) -> bool:
        return super().__contains__(fd) or (isinstance(fd, int) and self._native(fd) is not None)

    def __delitem__(self, fd: int) -> None:
        loop = self._loop()
        if loop is None or not loop._release_transport_of(fd):
            super().__delitem__(fd)

    def __setitem__(self, fd: int, transport: Any) -> None:
        loop = self._loop()
        if loop is None or not loop._claim_transport(transport):
            super().__setitem__(fd, transport)
