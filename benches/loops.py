"""The event loops that are compared, and how to make one of each."""

import asyncio
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable

#: names of the loops, also of their distributions (except for the standard library's) and modules
KNOWN = ("ferroloop", "uvloop", "asyncio", "rloop", "zuvloop")
#: the loop that ratios refer to by default
BASELINE = "uvloop"


def new_event_loop_of(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The loop factory of `name`; ImportError if it isn't installed."""
    if name not in KNOWN:
        raise ValueError(f"no such loop: {name} (there are: {', '.join(KNOWN)})")
    return importlib.import_module(name).new_event_loop


def is_installed(name: str) -> bool:
    """Whether `name` can be imported at all; a broken install surfaces in its first worker."""
    return importlib.util.find_spec(name) is not None


def version_of(name: str) -> str:
    """The version to print; an in-place build has no distribution, but has `__version__`."""
    if name == "asyncio":
        return "standard library"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(name), "__version__", "unknown"))
