"""One file per family of workloads.

A worker imports only the file of its own workload: the allocations of other files during their
import would change the state of its heap.
"""

import importlib
import pkgutil


def load_all() -> None:
    """Import every file, so that all workloads are registered."""
    for module in pkgutil.iter_modules(__path__, __name__ + "."):
        importlib.import_module(module.name)
