"""The loops that every test runs on: asyncio and ferroloop, plain and in debug mode."""

import asyncio
import importlib
import sys
import sysconfig
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import ModuleType
from typing import Any


def initializes_once(future_class: type) -> bool:
    """Whether a future whose `__init__` has run refuses another one: from 3.15 on, and of ferroloop
    without a GIL, where its loop must not change."""
    without_gil = sysconfig.get_config_var("Py_GIL_DISABLED")
    is_ours = future_class.__module__.startswith("ferroloop")
    return sys.version_info >= (3, 15) or bool(without_gil and is_ours)


@dataclass(frozen=True)
class Flavour:
    """One loop implementation in one mode."""

    name: str
    debug: bool
    #: TLS by the methods of the SSL object alone, as where OpenSSL's functions are not found
    tls_by_objects: bool = False

    def __str__(self) -> str:
        name = self.name + ("-tls-objects" if self.tls_by_objects else "")
        return name + ("-debug" if self.debug else "")

    @property
    def is_asyncio(self) -> bool:
        return self.name == "asyncio"

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(self.name)

    @property
    def initializes_once(self) -> bool:
        return initializes_once(self.Future)

    @property
    def Future(self) -> type[asyncio.Future]:
        return self.module.Future

    @property
    def Task(self) -> type[asyncio.Task]:
        return self.module.Task

    @property
    def Handle(self) -> type[asyncio.Handle]:
        return self.module.Handle

    @property
    def TimerHandle(self) -> type[asyncio.TimerHandle]:
        return self.module.TimerHandle

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """A fresh loop in this flavour's mode, not set as any thread's current loop.

        It reports no slow callbacks: on a busy machine any callback may be slow. Tests of these
        reports set `slow_callback_duration` themselves.
        """
        make: Callable[[], asyncio.AbstractEventLoop]
        make = asyncio.SelectorEventLoop if self.is_asyncio else self.module.new_event_loop
        loop = make()
        loop.set_debug(self.debug)
        loop.slow_callback_duration = 600.0
        return loop

    def run(self, main: Coroutine[Any, Any, Any], seconds: float = 20) -> Any:
        """Run `main` as asyncio.run() does, on a fresh loop, with a timeout."""

        async def limited() -> Any:
            async with asyncio.timeout(seconds):
                return await main

        with asyncio.Runner(debug=self.debug, loop_factory=self.new_loop) as runner:
            return runner.run(limited())


def flavours(names: list[str], *, tls: bool = False) -> list[Flavour]:
    """Plain and debug flavours of the named implementations; with `tls`, for tests of TLS, also
    ferroloop's other way to OpenSSL."""
    found = [Flavour(name, debug) for name in names for debug in (False, True)]
    if tls and "ferroloop" in names:
        found.append(Flavour("ferroloop", debug=False, tls_by_objects=True))
    return found
