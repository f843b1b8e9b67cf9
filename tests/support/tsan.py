"""A plugin of pytest, for tests where ThreadSanitizer instruments the interpreter and the extension
module: see `make test-tsan`. It refuses to run without the sanitizer, and fails if any process,
children included, has written a report."""

import ctypes
import os
import sysconfig
from pathlib import Path

import pytest
from ferroloop import _ferroloop


def reports() -> list[Path]:
    """The reports of all processes."""
    options = dict(option.partition("=")[::2] for option in os.environ["TSAN_OPTIONS"].split(":"))
    path = Path(options["log_path"])
    return sorted(path.parent.glob(f"{path.name}.*"))


def pytest_configure():
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.exit("the interpreter has a GIL", 3)
    if not hasattr(ctypes.CDLL(None), "__tsan_read8"):
        pytest.exit("the interpreter is not instrumented", 3)
    if b"__tsan_read8" not in Path(_ferroloop.__file__).read_bytes():
        pytest.exit("the extension module is not instrumented", 3)


def pytest_sessionfinish(session):
    if reports():
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    for report in reports():
        terminalreporter.section(report.name)
        terminalreporter.write(report.read_text())
    if not reports():
        terminalreporter.write_line("ThreadSanitizer: no report")
