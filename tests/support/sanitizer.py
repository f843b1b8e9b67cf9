"""What the plugins of pytest for sanitizers share: the reports, and that one fails the run."""

import os
from pathlib import Path


class Reports:
    """The reports that all processes, children included, have written.

    Args:
        sanitizer: its name, for the summary.
        variable: the environment variable with its options, among them `log_path`.
    """

    def __init__(self, sanitizer: str, variable: str) -> None:
        self.sanitizer = sanitizer
        self.variable = variable

    def files(self) -> list[Path]:
        settings = os.environ[self.variable].split(":")
        options = dict(option.partition("=")[::2] for option in settings)
        path = Path(options["log_path"])
        return sorted(path.parent.glob(f"{path.name}.*"))

    def pytest_sessionfinish(self, session):
        if self.files():
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter):
        for report in self.files():
            terminalreporter.section(report.name)
            terminalreporter.write(report.read_text())
        if not self.files():
            terminalreporter.write_line(f"{self.sanitizer}: no report")
