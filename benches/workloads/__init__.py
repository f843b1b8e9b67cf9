"""One file per family of workloads.

A worker imports the file of its own workload only: what others allocate when they are imported
would change the state of its heap.
"""

import importlib
import pkgutil


def load_all() -> None:
    """Import every file, which fills the table."""
    for module in pkgutil.iter_modules(__path__, __name__ + "."):
        importlib.import_module(module.name)
