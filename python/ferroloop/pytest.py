"""A pytest plugin that runs the tests of any project on ferroloop.

    python -m pytest -p ferroloop.pytest --ferroloop

The project needs no change: its own plugins and `asyncio.run()` make our loops. With pytest-asyncio
the plugin supplies the loop factory; anyio, pytest-aiohttp, `unittest.IsolatedAsyncioTestCase` and
`asyncio.run()` make the loops that the event loop policy chooses (`ferroloop.install()`). Without
the option the plugin does nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping

import pytest

from . import __version__
from .loop import new_event_loop
from .policy import install, uninstall

_Factories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--ferroloop`."""
    group = parser.getgroup("ferroloop")
    group.addoption("--ferroloop", action="store_true", help="run asyncio tests on ferroloop")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Install the loop if the option is given."""
    if config.getoption("--ferroloop"):
        config.pluginmanager.register(_Installed(), "ferroloop-installed")


class _Installed:
    """The hooks that have an effect only with the option."""

    def __init__(self) -> None:
        install()

    def pytest_report_header(self) -> str:
        """Say which loop the tests run on."""
        return f"ferroloop: {__version__}, the event loop of these tests"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self) -> None:
        """Install the loop again: modules of the project may have chosen a loop when imported."""
        install()

    @pytest.hookimpl(optionalhook=True, wrapper=True)
    def pytest_asyncio_loop_factories(self) -> Generator[None, _Factories | None, _Factories]:
        """Replace the loops that the project gives pytest-asyncio, under the same names, which
        marks of its tests may mention.
        """
        given = yield
        return dict.fromkeys(given or ["ferroloop"], new_event_loop)

    def pytest_unconfigure(self) -> None:
        """Restore asyncio's loop."""
        uninstall()
