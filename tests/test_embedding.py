"""Rust code on the loop: the programs of examples/, and a separate extension module."""

import asyncio
import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "target" / f"py{sys.version_info[0]}.{sys.version_info[1]}"
# The same path as in the rest of the build: a different one would trigger a full rebuild.
PYTHON = sys._base_executable
ENVIRONMENT = dict(os.environ, PYO3_PYTHON=PYTHON, CARGO_TARGET_DIR=str(TARGET))

BUILDING = 900
"""Seconds that a first build may take."""


def cargo(*arguments: str, directory: Path = ROOT) -> None:
    if shutil.which("cargo") is None:
        pytest.skip("no Rust to build it with")
    subprocess.run(["cargo", *arguments], cwd=directory, env=ENVIRONMENT, check=True)


def build_extension(crate: Path, path: Path) -> None:
    cargo("build", "--quiet", "--locked", directory=crate)
    shutil.copy(TARGET / "debug" / f"lib{crate.name}.so", path)


@pytest.fixture(scope="session")
def extension(tmp_path_factory):
    """The module of examples/rust_function."""
    path = tmp_path_factory.mktemp("extension") / "rust_function.so"
    build_extension(ROOT / "examples" / "rust_function", path)
    spec = importlib.util.spec_from_file_location("rust_function", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def program():
    """Builds an example in Rust; returns its path."""

    def build(name):
        cargo("build", "--quiet", "--locked", "--features", "embed", "--example", name)
        return str(TARGET / "debug" / "examples" / name)

    return build


@pytest.mark.timeout(BUILDING)
def test_a_python_program_awaits_rust(extension):
    paths = [str(Path(extension.__file__).parent), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples/rust_function/__main__.py")],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [
        f"checksum: {3000 * sum(range(256))}",
        "countdown: countdown [6, 4, 2]",
        "fibonacci: [55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181]",
        "time is up",
        "panic: Rust future panicked: as it should",
    ]
    assert "panicked at" in done.stderr


@pytest.mark.timeout(BUILDING)
def test_a_rust_server_calls_python_handlers(program):
    server = subprocess.Popen(
        [program("http_server")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with server:
        line = server.stdout.readline()
        port = int(re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", line)[1])

        def ask(connection, method, path, body=None):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            assert ask(connection, "GET", "/") == (200, b"hello from Python\n")
            assert ask(connection, "GET", "/nowhere") == (404, b"no such page\n")
            body = os.urandom(30_000)
            assert ask(connection, "POST", "/reverse", body) == (200, body[::-1])
            assert ask(connection, "GET", "/broken") == (500, b"internal error\n")

            # While one handler waits, others respond.
            slow = []
            other = http.client.HTTPConnection("127.0.0.1", port)
            thread = threading.Thread(target=lambda: slow.append(ask(other, "GET", "/slow")))
            thread.start()
            assert ask(connection, "GET", "/")[0] == 200
            thread.join()
            other.close()
            assert slow == [(200, b"slow\n")]
            assert b"/broken 1\n" in ask(connection, "GET", "/visits")[1]

            # A client that sends garbage only loses its own connection.
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"\0\1\2 nonsense\r\n\r\n")
                assert client.recv(100) == b""
            # End of input stops the server, even with a connection open.
            server.stdin.close()
            assert server.wait(30) == 0
        errors = server.stderr.read()
    assert "handler failed: RuntimeError: this handler is broken" in errors
    assert "panicked" not in errors


@pytest.mark.timeout(BUILDING)
def test_a_rust_host_restarts_its_plugin(program):
    done = subprocess.run(
        [program("plugin_host")], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "round 1",
        "  the plug-in ended with 1 jobs",
        '  the host got "1.1 done, cleaned up after 1"',
        "round 2",
        "  the plug-in ended with 2 jobs",
        '  the host got "2.1 done, 2.2 done, cleaned up after 2"',
        "round 3",
        "  the plug-in was too slow",
        '  the host got "3.1 done, 3.2 done, 3.3 done, cleaned up after 3"',
        "done",
    ]


@pytest.fixture(scope="session")
def host():
    """The program of tests/rust/embedding: it can run a Python module."""
    if shutil.which("cargo") is None:
        pytest.skip("no Rust to build it with")
    arguments = ["--quiet", "--locked", "--features", "embed", "--test", "embedding", "--no-run"]
    built = subprocess.run(
        ["cargo", "test", *arguments, "--message-format", "json"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    messages = map(json.loads, built.stdout.splitlines())
    return next(
        message["executable"]
        for message in messages
        if message.get("executable") and message["target"]["name"] == "embedding"
    )


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="the older PyO3 does not know it")
@pytest.mark.timeout(BUILDING)
def test_extensions_in_a_rust_host(host, tmp_path):
    """Extensions built with different versions of PyO3 use the loop of one program."""
    for name, crate in (
        ("current", ROOT / "examples" / "rust_function"),
        ("older", ROOT / "tests" / "rust" / "older_pyo3"),
    ):
        (tmp_path / name).mkdir()
        build_extension(crate, tmp_path / name / "rust_function.so")
    (tmp_path / "program.py").write_text("""
import asyncio
import socket

import ferroloop
from current import rust_function as current
from older import rust_function as older

async def checksum(extension):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        asyncio.get_running_loop().call_later(0.01, theirs.sendall, b"abc")
        asyncio.get_running_loop().call_later(0.02, theirs.shutdown, socket.SHUT_WR)
        return await extension.checksum(ours.fileno())

async def double(number):
    await asyncio.sleep(0)
    return 2 * number

async def nested(number):
    # A task of one extension awaits one of the other.
    return await older.countdown(number, 0, current.fibonacci)

async def main():
    assert current.__file__ != older.__file__
    assert ferroloop.__file__ == "embedded/ferroloop/__init__.py", ferroloop.__file__
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(coroutine)
            for _ in range(20)
            for extension in (current, older)
            for coroutine in (extension.fibonacci(20), checksum(extension))
        ]
    assert {task.result() for task in tasks} == {6765, sum(b"abc")}
    for extension in (current, older):
        assert await extension.countdown(3, 0.001, double) == [6, 4, 2]
        try:
            await extension.panics()
        except RuntimeError as error:
            assert str(error) == "Rust future panicked: as it should", error
        else:
            raise AssertionError("not raised")
    assert await current.countdown(3, 0, nested) == [[2, 1, 1], [1, 1], [1]]
    print("ok")
""")
    done = subprocess.run(
        [host],
        env=dict(os.environ, FERROLOOP_TEST_HOST="program", PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


@pytest.mark.only("ferroloop")
@pytest.mark.timeout(BUILDING)
class TestExtension:
    """What an extension can do with the loop through the capsule, in both modes, without leaks."""

    def test_results_and_errors(self, flavour, extension):
        async def main():
            assert await extension.fibonacci(20) == 6765
            assert await asyncio.gather(*[extension.fibonacci(n) for n in range(8)]) == [
                *(0, 1, 1, 2, 3, 5, 8, 13)
            ]
            with pytest.raises(RuntimeError, match="Rust future panicked: as it should"):
                await extension.panics()
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                coroutine = extension.fibonacci(2)
                await coroutine
                await coroutine

        flavour.run(main())

    def test_exceptions_from_python_code_propagate(self, flavour, extension):
        error = LookupError("lost")

        async def fail(number):
            await asyncio.sleep(0)
            raise error

        async def main():
            with pytest.raises(LookupError) as caught:
                await extension.countdown(2, 0, fail)
            assert caught.value is error

        flavour.run(main())

    def test_stop_iteration_does_not_end_a_task_with_a_result(self, flavour, extension):
        def stop(number):
            return next(iter(()))

        async def main():
            for _ in range(2):
                with pytest.raises(
                    RuntimeError, match=r"^coroutine raised StopIteration$"
                ) as caught:
                    await extension.countdown(1, 0, stop)
                assert isinstance(caught.value.__cause__, StopIteration)

        flavour.run(main())

    def test_a_task_that_awaits_itself(self, flavour, extension):
        async def main():
            task = extension.countdown(1, 0, lambda number: asyncio.current_task())
            with pytest.raises(RuntimeError, match=r"^Task cannot await on itself: <Task pending"):
                await task

        flavour.run(main())

    def test_the_descriptor_of_a_callback(self, flavour, extension):
        async def main():
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            with ours, theirs:
                received = []
                loop.add_reader(ours, lambda: received.append(ours.recv(9)))
                with pytest.raises(RuntimeError, match=f"^File descriptor {ours.fileno()} is used"):
                    await extension.checksum(ours.fileno())
                theirs.sendall(b"x")
                await asyncio.sleep(0.01)
                assert received == [b"x"]
                loop.remove_reader(ours)

        flavour.run(main())

    def test_cancelling_reaches_the_awaited_coroutine(self, flavour, extension):
        log = []

        async def wait(number):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                log.append(number)
                raise

        async def main():
            task = extension.countdown(2, 0, wait)
            assert task in asyncio.all_tasks()
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.01)
            assert log == [2]

        flavour.run(main())

    def test_cancelling_any_wait(self, flavour, extension):
        async def double(number):
            await asyncio.sleep(0)
            return 2 * number

        async def main():
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            with ours, theirs:
                for turns in range(12):
                    tasks = [
                        extension.countdown(2, 0, double),
                        extension.countdown(1, 60, double),
                        asyncio.create_task(extension.checksum(ours.fileno())),
                        asyncio.create_task(extension.fibonacci(90)),
                    ]
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
                    assert tasks[1].cancelled()
                    assert tasks[2].cancelled()
                # The socket is still usable.
                theirs.sendall(b"abc")
                theirs.shutdown(socket.SHUT_WR)
                assert await extension.checksum(ours.fileno()) == sum(b"abc")

        flavour.run(main())

    def test_a_bad_descriptor_is_an_error(self, flavour, extension, tmp_path):
        async def main():
            with pytest.raises(OSError, match="Bad file descriptor"):
                await extension.checksum(1_000_000)

        flavour.run(main())

    def test_without_a_loop(self, flavour, extension):
        with pytest.raises(RuntimeError, match="no running event loop"):
            extension.countdown(1, 0, print)

        async def main():
            with pytest.raises(RuntimeError, match="need an event loop of ferroloop"):
                await extension.fibonacci(3)

        with contextlib.closing(asyncio.SelectorEventLoop()) as other:
            other.run_until_complete(main())

    def test_a_coroutine_that_is_never_awaited(self, flavour, extension):
        async def main():
            with pytest.warns(RuntimeWarning, match="coroutine 'fibonacci' was never awaited"):
                extension.fibonacci(3)

        flavour.run(main())


@pytest.mark.timeout(60)
def test_sub_interpreters_are_refused():
    code = """
import sys
import ferroloop._ferroloop
try:
    import _interpreters as interpreters
    name, run = interpreters.create("legacy"), interpreters.run_string
except ImportError:
    import _xxsubinterpreters as interpreters
    name, run = interpreters.create(isolated=False), interpreters.run_string
result = run(name, '''
import sys
sys.path[:] = %r
import asyncio
try:
    import ferroloop
except ImportError as error:
    print(error)
else:
    print("imported")
''' % (sys.path,))
assert result is None, result
interpreters.destroy(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.startswith("ferroloop does not support subinterpreters"), done.stdout
