"""The event loop a program should run on, in every form in which programs ask for one."""

import asyncio
import importlib
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

NAMES = ("asyncio", "ferroloop")


@dataclass(frozen=True)
class Loop:
    """asyncio or ferroloop."""

    name: str

    @property
    def path(self) -> str:
        """The import path of the factory, for `uvicorn --loop` and the like."""
        return {
            "asyncio": "asyncio:SelectorEventLoop",
            "ferroloop": "ferroloop:new_event_loop",
        }[self.name]

    @property
    def factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        """The factory, for `asyncio.Runner(loop_factory=...)`."""
        module, name = self.path.split(":")
        return getattr(importlib.import_module(module), name)

    @property
    def interpreter(self) -> list[str]:
        """The command that runs a script or a module on this loop: `python -m ferroloop`."""
        # ferroloop's command line selects the loop by policy, as any program can.
        return [sys.executable] if self.name == "asyncio" else [sys.executable, "-m", "ferroloop"]

    def install(self) -> None:
        """Make `asyncio.new_event_loop()` return this loop, by setting the policy."""
        if self.name == "ferroloop":
            importlib.import_module("ferroloop").install()

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Like `asyncio.run()`, on this loop."""
        with asyncio.Runner(loop_factory=self.factory) as runner:
            return runner.run(self._checked(main))

    async def _checked(self, main: Coroutine[Any, Any, Any]) -> Any:
        assert running() == self.name, f"{running()} runs instead of {self.name}"
        return await main


def running() -> str:
    """The name of the loop that runs the caller."""
    kinds = {type(asyncio.get_running_loop()), type(asyncio.current_task())}
    ours = {kind.__module__.partition(".")[0] for kind in kinds} - {"asyncio", "_asyncio"}
    return ours.pop() if ours else "asyncio"
