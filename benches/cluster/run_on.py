"""Runs a module on a loop: ``python -m benches.cluster.run_on LOOP MODULE [ARGUMENTS]``."""

import asyncio
import runpy
import sys

from benches.loops import new_event_loop_of


class Policy(asyncio.DefaultEventLoopPolicy):
    """Makes the loops of one kind."""

    def __init__(self, name: str):
        super().__init__()
        self._loop_factory = new_event_loop_of(name)

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A loop of this kind."""
        return self._loop_factory()


if __name__ == "__main__":
    if sys.argv[1] != "asyncio":
        asyncio.set_event_loop_policy(Policy(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
