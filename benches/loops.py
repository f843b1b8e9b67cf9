"""The event loops that are compared, and how to make one of each."""

import asyncio
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable

#: names of the loops, also of their distributions (except for the standard library's) and modules
LOOPS = ("ferroloop", "uvloop", "asyncio", "rloop", "zuvloop")
#: also with a layer whose transports replace the loop's, only when asked for
KNOWN = (*LOOPS, "uvloop+aiofastnet", "asyncio+aiofastnet")
#: the loop that ratios refer to by default
BASELINE = "uvloop"


def new_event_loop_of(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The loop factory of `name`; ImportError if it isn't installed."""
    if name not in KNOWN:
        raise ValueError(f"no such loop: {name} (there are: {', '.join(KNOWN)})")
    loop, _, layer = name.partition("+")
    factory = importlib.import_module(loop).new_event_loop
    return importlib.import_module(layer).loop_factory(factory) if layer else factory


def is_installed(name: str) -> bool:
    """Whether `name` can be imported at all; a broken install surfaces in its first worker."""
    return all(importlib.util.find_spec(part) is not None for part in name.split("+"))


def version_of(name: str) -> str:
    """The version to print; an in-place build has no distribution, but has `__version__`."""
    if "+" in name:
        return " + ".join(map(version_of, name.split("+")))
    if name == "asyncio":
        return "standard library"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(name), "__version__", "unknown"))
