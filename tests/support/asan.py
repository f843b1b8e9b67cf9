"""A plugin of pytest, for tests of an extension module that AddressSanitizer instruments: see
`make test-asan`. It refuses to run without the sanitizer, leaves out what cannot run under it, and
fails if any process, children included, has written a report."""

import ctypes
from pathlib import Path

import pytest
from ferroloop import _ferroloop

from .sanitizer import Reports

# A part of a test's id, and why a test with it is left out.
UNFIT: dict[str, str] = {}


def pytest_configure(config):
    if not hasattr(ctypes.CDLL(None), "__asan_report_load8"):
        pytest.exit("the sanitizer's runtime is not loaded", 3)
    if b"__asan_report_load8" not in Path(_ferroloop.__file__).read_bytes():
        pytest.exit("the extension module is not instrumented", 3)
    config.pluginmanager.register(Reports("AddressSanitizer", "ASAN_OPTIONS"))


def pytest_collection_modifyitems(items):
    for item in items:
        for part, reason in UNFIT.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=f"AddressSanitizer: {reason}"))
