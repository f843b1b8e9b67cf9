"""A plugin of pytest, for tests where ThreadSanitizer instruments the interpreter and the extension
module: see `make test-tsan`. It refuses to run without the sanitizer, and fails if any process,
children included, has written a report."""

import ctypes
import sysconfig
from pathlib import Path

import pytest
from ferroloop import _ferroloop

from .sanitizer import Reports


def pytest_configure(config):
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.exit("the interpreter has a GIL", 3)
    if not hasattr(ctypes.CDLL(None), "__tsan_read8"):
        pytest.exit("the interpreter is not instrumented", 3)
    if b"__tsan_read8" not in Path(_ferroloop.__file__).read_bytes():
        pytest.exit("the extension module is not instrumented", 3)
    config.pluginmanager.register(Reports("ThreadSanitizer", "TSAN_OPTIONS"))
