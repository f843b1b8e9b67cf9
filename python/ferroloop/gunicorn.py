"""Worker classes for gunicorn.

    gunicorn -k ferroloop.gunicorn.UvicornWorker app:app    # ASGI, by uvicorn-worker
    gunicorn -k ferroloop.gunicorn.AsgiWorker app:app       # ASGI, by gunicorn 24 or later
    gunicorn -k ferroloop.gunicorn.AiohttpWorker app:app    # an aiohttp application

Each is the class of that project on this loop, and is made when gunicorn asks for it: only its own
packages must be installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar

from .loop import new_event_loop
from .policy import install


def _uvicorn_worker() -> type:
    base: Any = import_module("uvicorn_worker").UvicornWorker

    class UvicornWorker(base):  # type: ignore[misc]
        """uvicorn's worker class on ferroloop."""

        CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
            **base.CONFIG_KWARGS,
            "loop": "ferroloop:new_event_loop",
        }

    return UvicornWorker


def _asgi_worker() -> type:
    base: Any = import_module("gunicorn.workers.gasgi").ASGIWorker

    class AsgiWorker(base):  # type: ignore[misc]
        """gunicorn's own ASGI worker class on ferroloop. It ignores `--asgi-loop`."""

        def _setup_event_loop(self) -> None:
            self.loop = new_event_loop()
            asyncio.set_event_loop(self.loop)

    return AsgiWorker


def _aiohttp_worker() -> type:
    base: Any = import_module("aiohttp.worker").GunicornWebWorker

    class AiohttpWorker(base):  # type: ignore[misc]
        """aiohttp's worker class on ferroloop."""

        def init_process(self) -> None:
            install()  # it calls `asyncio.new_event_loop()`
            super().init_process()

    return AiohttpWorker


_CLASSES: dict[str, Callable[[], type]] = {
    "AiohttpWorker": _aiohttp_worker,
    "AsgiWorker": _asgi_worker,
    "UvicornWorker": _uvicorn_worker,
}


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = _CLASSES[name]()
    made.__module__, made.__qualname__ = __name__, name
    globals()[name] = made
    return made
