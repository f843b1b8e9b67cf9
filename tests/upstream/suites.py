"""The suites: where each one comes from and how its project runs it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """The tests of one project.

    Attributes:
        name: the project on PyPI.
        version: of the package and of the tests.
        sources: where the tests are: the sdist on PyPI, or the Debian source package of that name,
        if the sdist leaves them out; "package" if they are installed with it.
        parts: the parts of the source tree that the tests need.
        options: pytest options that replace those the project uses to run in parallel and measure
        coverage.
        environment: additional environment variables.
        module: what runs all tests with `python -m`, for a suite that does not use pytest.
        loops: what it runs on. "plugin" is ferroloop by its pytest plugin, which changes only
        the loops of the tests; "ferroloop" replaces asyncio's loop in every interpreter.
    """

    name: str
    version: str
    options: tuple[str, ...]
    sources: str = "sdist"
    parts: tuple[str, ...] = ("tests", "pyproject.toml")
    environment: dict[str, str] = field(default_factory=dict)
    module: str = ""
    loops: tuple[str, ...] = ("asyncio", "ferroloop")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


EVERY_WAY = ("asyncio", "ferroloop", "plugin")

SUITES = (
    # The plugin of anyio, and asyncio.run().
    Suite("uvicorn", "0.54.0", ("-n0", "--timeout=60"), loops=EVERY_WAY),
    Suite("anyio", "4.16.0", ()),
    Suite(
        "websockets",
        "15.0.1",
        # The suite does not use pytest, and has no settings for it.
        ("-c", "pyproject.toml", "--timeout=60"),
        sources="python-websockets",
        # Multiplies the suite's time limits, which suit its author's machine.
        environment={"WEBSOCKETS_TESTS_TIMEOUT_FACTOR": "10"},
        loops=EVERY_WAY,  # IsolatedAsyncioTestCase
    ),
    Suite(
        "aiohttp",
        "3.14.5",
        ("-n0", "--no-cov", "--no-showlocals"),
        parts=("tests", "pytest.ini", ".coveragerc.toml", ".mypy.ini", "examples"),
    ),
    Suite("tornado", "6.6.1", (), sources="package", module="tornado.test"),
    # The sources have no settings for pytest-aiohttp, which needs this mode.
    Suite("aiojobs", "1.4.0", ("-c", "pyproject.toml", "-o", "asyncio_mode=auto"), loops=EVERY_WAY),
    # pytest-asyncio, and asyncio.run().
    Suite("asgiref", "3.13.0", (), parts=("tests", "setup.cfg"), loops=EVERY_WAY),
)
