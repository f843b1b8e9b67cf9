"""A plugin of pytest, for tests of an extension module that AddressSanitizer instruments: see
`make test-asan`. It refuses to run without the sanitizer, leaves out what cannot run under it, and
fails if any process, children included, has written a report."""

import ctypes
import os
from pathlib import Path

import pytest
from ferroloop import _ferroloop

# A part of a test's id, and why a test with it is left out.
UNFIT: dict[str, str] = {}


def reports() -> list[Path]:
    """The reports of all processes."""
    options = dict(option.partition("=")[::2] for option in os.environ["ASAN_OPTIONS"].split(":"))
    path = Path(options["log_path"])
    return sorted(path.parent.glob(f"{path.name}.*"))


def pytest_configure():
    if not hasattr(ctypes.CDLL(None), "__asan_report_load8"):
        pytest.exit("the sanitizer's runtime is not loaded", 3)
    if b"__asan_report_load8" not in Path(_ferroloop.__file__).read_bytes():
        pytest.exit("the extension module is not instrumented", 3)


def pytest_collection_modifyitems(items):
    for item in items:
        for part, reason in UNFIT.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=f"AddressSanitizer: {reason}"))


def pytest_sessionfinish(session):
    if reports():
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    for report in reports():
        terminalreporter.section(report.name)
        terminalreporter.write(report.read_text())
    if not reports():
        terminalreporter.write_line("AddressSanitizer: no report")
