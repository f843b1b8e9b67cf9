"""Runs a suite that has its own runner based on unittest.

Writes the outcome of each test to the file named by the environment variable UPSTREAM_OUTCOMES.

    python -m upstream_unittest MODULE [TESTS]

is otherwise the same as `python -m MODULE [TESTS]`.
"""

import asyncio
import json
import os
import runpy
import sys
import unittest


class Recorder(unittest.TextTestResult):
    """Writes a line when each test starts and when it ends."""

    file = None

    def record(self, test, outcome, error=None):
        last = self._exc_info_to_string(error, test).strip().splitlines()[-1] if error else ""
        Recorder.file.write(json.dumps([test.id(), outcome, last]) + "\n")

    def startTest(self, test):
        self.record(test, "started")
        super().startTest(test)

    def addSuccess(self, test):
        self.record(test, "passed")
        super().addSuccess(test)

    def addError(self, test, error):
        self.record(test, "failed", error)
        super().addError(test, error)

    def addFailure(self, test, error):
        self.record(test, "failed", error)
        super().addFailure(test, error)

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.record(test, "failed", error)
        super().addSubTest(test, subtest, error)

    def addSkip(self, test, reason):
        self.record(test, "skipped")
        super().addSkip(test, reason)

    def addExpectedFailure(self, test, error):
        self.record(test, "skipped")
        super().addExpectedFailure(test, error)

    def addUnexpectedSuccess(self, test):
        self.record(test, "failed")
        super().addUnexpectedSuccess(test)


def main():
    with open(os.environ["UPSTREAM_OUTCOMES"], "a", buffering=1) as file:
        Recorder.file = file
        with asyncio.Runner() as runner:
            file.write(json.dumps(["loop", type(runner.get_loop()).__module__]) + "\n")
        # Runners subclass the first name; unittest's own runner uses the second.
        unittest.TextTestResult = unittest.TextTestRunner.resultclass = Recorder
        del sys.argv[0]
        try:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        finally:
            file.write(json.dumps(["end", ""]) + "\n")


if __name__ == "__main__":
    main()
