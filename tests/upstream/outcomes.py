"""The outcomes of the tests: read from what the plugin wrote, and compared."""

import fnmatch
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

EXPECTED = Path(__file__).with_name("expected.txt")


@dataclass
class Outcomes:
    """The outcomes of one run of one or more of a suite's files: by test id, the outcome and, for
    a failure, the last line of the error."""

    tests: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, file: str, loop: str) -> "Outcomes":
        """The outcomes recorded in `path` for the tests in `file`.

        A test that began and did not end crashed the process, or hung. If any record of a test is
        a failure, the test failed.
        """
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        found = cls()
        if not lines:
            found.tests[file] = ("failed", "pytest did not start")
            return found
        what, module, *_ = lines.pop(0)
        if what != "loop" or module.partition(".")[0] != loop:
            raise SystemExit(f"the tests ran on {module} instead of {loop}")
        ended = lines and lines[-1][0] == "end"
        for test, outcome, *detail in lines[: -1 if ended else None]:
            if found.tests.get(test, ("",))[0] != "failed":
                found.tests[test] = (outcome, *detail)
        for test, (outcome, _) in found.tests.items():
            if outcome == "started":
                found.tests[test] = ("failed", "did not end")
        if not ended:
            found.tests.setdefault(f"{file}::", ("failed", "the run did not end"))
        return found

    def failed(self) -> set[str]:
        """The ids of the failed tests."""
        return {test for test, (outcome, _) in self.tests.items() if outcome == "failed"}

    def count(self) -> str:
        """As in `5 passed, 1 failed, 2 skipped`."""
        counted = Counter(outcome for outcome, _ in self.tests.values())
        return ", ".join(f"{counted[name]} {name}" for name in ("passed", "failed", "skipped"))


@dataclass(frozen=True)
class Explanation:
    """A line of expected.txt."""

    suite: str
    pattern: str
    reason: str

    def covers(self, suite: str, test: str) -> bool:
        # Brackets in a test id are not pattern syntax.
        pattern = self.pattern.replace("[", "[[]")
        return self.suite == suite and fnmatch.fnmatchcase(test, pattern)


def explanations(path: Path = EXPECTED) -> list[Explanation]:
    """The differences with a known reason."""
    lines = (line.strip() for line in path.read_text().splitlines())
    words = (line.split(maxsplit=2) for line in lines if line and not line.startswith("#"))
    return [Explanation(suite, pattern, reason) for suite, pattern, reason in words]


def explained(suite: str, test: str, known: Iterable[Explanation]) -> str | None:
    """The reason why a test of the suite fails on ferroloop alone, if it is known."""
    return next((each.reason for each in known if each.covers(suite, test)), None)
