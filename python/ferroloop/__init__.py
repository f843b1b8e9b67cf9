"""asyncio on a Rust event loop, with Task and Future in Rust too.

import asyncio, ferroloop

ferroloop.run(main())                                        # preferred
asyncio.run(main(), loop_factory=ferroloop.new_event_loop)   # 3.12 and later
ferroloop.install(); asyncio.run(main())                     # by policy
"""

from . import _introspection as _introspection
from ._ferroloop import Future, Handle, Task, TimerHandle, __version__
from .diagnostics import serve_introspection, watch
from .loop import EventLoop, Loop, new_event_loop
from .policy import EventLoopPolicy, install, uninstall
from .runner import run

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
    "new_event_loop",
    "run",
    "serve_introspection",
    "uninstall",
    "watch",
]
