"""A pytest plugin for the suites of other projects: writes the outcome of each test to the file
named by the environment variable UPSTREAM_OUTCOMES, one JSON value per line, as it happens."""

import asyncio
import json
import os

import pytest


class Outcomes:
    """Writes the lines, which show what ran last if the process crashes or hangs."""

    def __init__(self, path):
        self.file = open(path, "a", buffering=1)  # noqa: SIM115

    def write(self, *values):
        self.file.write(json.dumps(values) + "\n")

    def pytest_sessionstart(self):
        with asyncio.Runner() as runner:
            self.write("loop", type(runner.get_loop()).__module__)

    def pytest_collectreport(self, report):
        if report.failed:
            self.write(report.nodeid, "failed", last_line(report))

    def pytest_runtest_logstart(self, nodeid):
        self.write(nodeid, "started", "")

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.write(report.nodeid, "failed", last_line(report))
        elif report.skipped:  # expected failures too
            self.write(report.nodeid, "skipped", "")
        elif report.when == "call":
            self.write(report.nodeid, "passed", "")

    def pytest_sessionfinish(self):
        self.write("end", "")


def last_line(report):
    lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return lines[-1][1:].strip() if lines else report.longreprtext.strip()[-200:]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    path = os.environ["UPSTREAM_OUTCOMES"]
    config.pluginmanager.register(Outcomes(path), "upstream-outcomes-writer")
