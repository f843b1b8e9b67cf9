"""An asyncio event loop in Rust, with Task and Future in Rust too.

import asyncio, ferroloop

ferroloop.run(main())                                        # preferred
asyncio.run(main(), loop_factory=ferroloop.new_event_loop)   # 3.12 and later
ferroloop.install(); asyncio.run(main())                     # as the event loop policy
"""

try:
    from ._ferroloop import Future, Handle, Task, TimerHandle, __version__
except ModuleNotFoundError as _error:
    from zipimport import zipimporter

    _loader = __spec__.loader if __spec__ else None
    if _error.name == f"{__name__}._ferroloop" and isinstance(_loader, zipimporter):
        raise ImportError(
            f"ferroloop cannot be imported from the zip archive {_loader.archive}: an extension "
            "module can only be loaded from a file. Install ferroloop beside the archive, or have "
            "the archive unpacked (as shiv and pex do)",
            name=_error.name,
            path=__file__,
        ) from None
    raise

import os

from . import _ferroloop, _streams, _task_registry  # noqa: F401
from .diagnostics import name_blocking_calls, serve_introspection, watch
from .loop import EventLoop, Loop, new_event_loop
from .policy import EventLoopPolicy, install, uninstall
from .runner import run

# Called here, not during the import of the module: a lazy import may delay that (PEP 810).
_task_registry.install()
os.register_at_fork(after_in_child=_ferroloop.after_fork)

__all__ = [
    "EventLoop",
    "EventLoopPolicy",
    "Future",
    "Handle",
    "Loop",
    "Task",
    "TimerHandle",
    "__version__",
    "install",
    "name_blocking_calls",
    "new_event_loop",
    "run",
    "serve_introspection",
    "uninstall",
    "watch",
]
