"""The pytest plugin: pytest runs small projects in child processes, which note their loops."""

import os
import subprocess
import sys

import ferroloop
import pytest

# One project may use all of these: `strict` leaves each test to the plugin that it names.
STRICT = {
    "pytest.ini": """
        [pytest]
        asyncio_mode = strict
        asyncio_default_fixture_loop_scope = function
    """,
    "conftest.py": """
        import asyncio, os, pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
    """,
    "note.py": """
        import asyncio, os

        def note(name):
            with open(os.environ["NOTES"], "a") as notes:
                print(name, type(asyncio.get_running_loop()).__module__, file=notes)
    """,
    "test_pytest_asyncio.py": """
        import asyncio, pytest, pytest_asyncio
        from note import note

        @pytest_asyncio.fixture
        async def value():
            note("pytest-asyncio-fixture")
            return 1

        @pytest.mark.asyncio
        async def test_it(value):
            note("pytest-asyncio")
            await asyncio.sleep(0)
    """,
    "test_anyio.py": """
        import anyio, pytest
        from note import note

        @pytest.mark.anyio
        async def test_it():
            note("anyio")
            await anyio.sleep(0)
    """,
    "test_unittest.py": """
        import unittest
        from note import note

        class Test(unittest.IsolatedAsyncioTestCase):
            async def test_it(self):
                note("unittest")
    """,
    "test_plain.py": """
        import asyncio
        from note import note

        async def main():
            note("run")

        def test_it():
            asyncio.run(main())
    """,
}

# pytest-aiohttp needs the mode in which pytest-asyncio runs every asynchronous test.
AUTO = {
    "pytest.ini": """
        [pytest]
        asyncio_mode = auto
        asyncio_default_fixture_loop_scope = function
    """,
    "conftest.py": """
        import asyncio

        def pytest_asyncio_loop_factories():
            return {"first": asyncio.new_event_loop, "second": asyncio.SelectorEventLoop}
    """,
    "note.py": STRICT["note.py"],
    "test_aiohttp.py": """
        from aiohttp import web
        from note import note

        async def handle(request):
            note("aiohttp-handler")
            return web.Response(text="hello")

        async def test_it(aiohttp_client):
            app = web.Application()
            app.router.add_get("/", handle)
            client = await aiohttp_client(app)
            assert await (await client.get("/")).text() == "hello"
            note("aiohttp")
    """,
    "test_marked.py": """
        import pytest
        from note import note

        @pytest.mark.asyncio(loop_factories=["second"])
        async def test_it():
            note("marked")
    """,
}


def run_project(directory, files, *options):
    """Run pytest in a new project; return which loop each of its tests noted."""
    for name, text in files.items():
        lines = text.strip("\n").split("\n")
        (directory / name).write_text("\n".join(line[8:] for line in lines))
    notes = directory / "notes.txt"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=directory,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
            "NOTES": str(notes),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            # Only the plugins that the project needs: the others take long to import.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, set[str]] = {}
    for line in notes.read_text().splitlines():
        name, module = line.split()
        found.setdefault(name, set()).add(module.partition(".")[0])
    return found, done.stdout


PLUGIN = ("-p", "ferroloop.pytest", "--ferroloop")
ASYNCIO = ("-p", "pytest_asyncio.plugin")
ANYIO = ("-p", "anyio.pytest_plugin")
AIOHTTP = ("-p", "pytest_aiohttp.plugin")


@pytest.fixture(scope="module", autouse=True)
def plugins():
    for name in ("pytest_asyncio", "anyio", "pytest_aiohttp"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    return run_project(tmp_path_factory.mktemp("strict"), STRICT, *PLUGIN, *ASYNCIO, *ANYIO)


@pytest.fixture(scope="module")
def auto(tmp_path_factory):
    return run_project(tmp_path_factory.mktemp("auto"), AUTO, *PLUGIN, *ASYNCIO, *AIOHTTP)


@pytest.mark.parametrize(
    "name", ["pytest-asyncio", "pytest-asyncio-fixture", "anyio", "unittest", "run"]
)
def test_the_tests_of_a_project_run_on_ferroloop(strict, name):
    loops, _ = strict
    assert loops[name] == {"ferroloop"}


@pytest.mark.parametrize("name", ["aiohttp", "aiohttp-handler", "marked"])
def test_a_project_that_chooses_its_loops(auto, name):
    """Its own loop factories, and marks that name one of them."""
    loops, _ = auto
    assert loops[name] == {"ferroloop"}


def test_the_header_names_the_loop(strict, auto):
    for _, output in (strict, auto):
        assert f"\nferroloop: {ferroloop.__version__}, the event loop of these tests\n" in output


def test_without_the_option_nothing_changes(tmp_path):
    loops, _ = run_project(tmp_path, STRICT, "-p", "ferroloop.pytest", *ASYNCIO, *ANYIO)
    assert loops.keys() >= {"pytest-asyncio", "anyio", "unittest", "run"}
    assert set.union(*loops.values()) == {"asyncio"}


def test_loops_that_modules_of_the_project_install(tmp_path):
    """A module that sets a policy when it is imported does not take the tests away."""
    if sys.version_info >= (3, 14):
        pytest.skip("policies are deprecated")
    files = {
        "note.py": STRICT["note.py"],
        "test_policy.py": """
        import asyncio
        from note import note

        asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())

        async def main():
            note("run")

        def test_it():
            asyncio.run(main())
    """,
    }
    loops, _ = run_project(tmp_path, files, *PLUGIN)
    assert loops == {"run": {"ferroloop"}}
