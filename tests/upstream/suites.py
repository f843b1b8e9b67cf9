"""The suites: where each comes from and how its own project runs it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """The tests of one project.

    Attributes:
        name: the project on PyPI.
        version: that of the package and of the tests.
        sources: where the tests are: the sdist on PyPI, or Debian's source package of that name,
            for a project whose sdist leaves them out; "package" if they are installed with it.
        parts: what the tests need of the source tree.
        options: for pytest, instead of what the project uses to spread them over processes and to
            measure coverage.
        environment: more variables for the tests.
        module: what runs all tests by `python -m`, for a suite that is not pytest's.
    """

    name: str
    version: str
    options: tuple[str, ...]
    sources: str = "sdist"
    parts: tuple[str, ...] = ("tests", "pyproject.toml")
    environment: dict[str, str] = field(default_factory=dict)
    module: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


SUITES = (
    Suite("uvicorn", "0.54.0", ("-n0", "--timeout=60")),
    Suite("anyio", "4.16.0", ()),
    Suite(
        "websockets",
        "15.0.1",
        # It is no suite of pytest's, and has no settings for it.
        ("-c", "pyproject.toml", "--timeout=60"),
        sources="python-websockets",
        # Its limits are those of its author's machine, times this.
        environment={"WEBSOCKETS_TESTS_TIMEOUT_FACTOR": "10"},
    ),
    Suite(
        "aiohttp",
        "3.14.5",
        ("-n0", "--no-cov", "--no-showlocals"),
        parts=("tests", "pytest.ini", ".coveragerc.toml", ".mypy.ini", "examples"),
    ),
    Suite("tornado", "6.6.1", (), sources="package", module="tornado.test"),
)
