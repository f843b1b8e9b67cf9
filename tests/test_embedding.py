"""Rust code on the loop: the programs of examples/, and a separate extension module."""

import asyncio
import contextlib
import contextvars
import ctypes
import gc
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
import time
from pathlib import Path

import ferroloop
import pytest

from .support.cargo import (
    BUILDING,
    ENVIRONMENT,
    ROOT,
    TARGET,
    cargo,
    extension_module,
    skip_without_cargo,
)


@pytest.fixture(scope="session")
def load_extension(tmp_path_factory):
    """Builds an extension module if need be; returns it."""

    def load(module, name):
        path = tmp_path_factory.mktemp("extension") / f"{name}.so"
        shutil.copy(extension_module(module), path)
        spec = importlib.util.spec_from_file_location(name, path)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return load


@pytest.fixture(scope="session")
def extension(load_extension):
    """The module of examples/rust_function."""
    return load_extension("function", "rust_function")


@pytest.fixture(scope="session")
def cases(load_extension):
    """The module of tests/rust/extension."""
    return load_extension("cases", "ferroloop_test_extension")


@pytest.fixture(scope="session")
def old_extension(load_extension):
    """The module of tests/rust/old_extension."""
    return load_extension("old_cases", "ferroloop_old_extension")


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
    skip_without_cargo()
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


@pytest.mark.timeout(BUILDING)
def test_extensions_in_a_rust_host(host, tmp_path):
    """Extensions built with different versions of PyO3 use the loop of one program."""
    for name, module in (("current", "function"), ("older", "older_function")):
        (tmp_path / name).mkdir()
        shutil.copy(extension_module(module), tmp_path / name / "rust_function.so")
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


@pytest.mark.only("ferroloop")
@pytest.mark.timeout(BUILDING)
class TestInterface:
    """The include file has the names of the crate, with the same meaning."""

    def test_cases(self, flavour, cases, unraisable):
        names = cases.cases()
        assert names
        for name in names:
            flavour.run(cases.case(name))

    def test_the_oldest_pyo3(self, flavour, old_extension):
        for name in old_extension.cases():
            flavour.run(old_extension.case(name))

    def test_an_extension_with_the_first_include_file(self, flavour, old_extension):
        async def answer():
            await asyncio.sleep(0)
            return 42

        async def main():
            ours, theirs = socket.socketpair()
            with ours, theirs:
                task = old_extension.first_functions(ours.fileno(), 0.001, answer)
                assert task.get_name() == "first"
                theirs.sendall(b"x")
                assert await task == 42
                task = old_extension.first_functions(theirs.fileno(), 0, answer)
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        flavour.run(main())

    def test_an_older_ferroloop(self, load_extension, monkeypatch):
        version, size = 1, 48
        table = (ctypes.c_uint32 * 2)(version, size)
        name = ctypes.create_string_buffer(b"ferroloop._ferroloop._C_API")
        make = ctypes.pythonapi.PyCapsule_New
        make.restype = ctypes.py_object
        make.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        capsule = make(ctypes.addressof(table), ctypes.addressof(name), None)
        monkeypatch.setattr(ferroloop._ferroloop, "_C_API", capsule)
        # It finds the table when it is first used.
        fresh = load_extension("cases", "ferroloop_test_extension")
        with pytest.raises(ImportError, match=r"^this extension needs a newer ferroloop$"):
            fresh.case(fresh.cases()[0])

    def test_the_first_table_is_the_head_of_the_table(self):
        first = (ROOT / "tests/rust/old_extension/src/first.rs").read_text()
        now = (ROOT / "include/ferroloop.rs").read_text()

        def fields(text):
            table = re.search(r"^pub struct Api \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
            code = "".join(line.split("///")[0] for line in table[1].splitlines())
            return re.split(r"\bpub ", re.sub(r"\s+", "", code).replace("pub", "pub "))

        assert fields(now)[: len(fields(first))] == fields(first)


class TestEndOfTheProcess:
    """Live Rust futures do no harm when the interpreter is finalized, and when it forks."""

    @pytest.fixture
    def start(self, cases):
        """Runs a program that can import the extension module; returns what it prints."""
        paths = [str(Path(cases.__file__).parent), *filter(None, sys.path)]

        def run(program, *arguments, status=0):
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", program, *arguments],
                env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == status, (done.returncode, done.stderr)
            # Some cases panic, as they should.
            panic = r"panicked at .*\n(?!as it should)|Fatal|Traceback"
            assert not re.search(panic, done.stderr), done.stderr
            return done.stdout

        return run

    @pytest.mark.timeout(BUILDING)
    @pytest.mark.parametrize("how", ["closed", "unclosed", "cycle", "exit", "daemon"])
    def test_finalization(self, start, how):
        program = """
import asyncio, atexit, sys, threading
import ferroloop
import ferroloop_test_extension as extension

how = sys.argv[1]
atexit.register(print, "at exit")

async def main():
    left = extension.leave_futures()
    started = left[-1]
    started.send(None)
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks().issuperset(left[:-1])
    if how == "exit":
        sys.exit(3)
    if how == "daemon":
        running.set()
        await asyncio.sleep(3600)
    return left

if how == "daemon":
    running = threading.Event()
    threading.Thread(target=ferroloop.run, args=(main(),), daemon=True).start()
    running.wait()
elif how in ("closed", "exit"):
    left = ferroloop.run(main())
else:
    loop = ferroloop.new_event_loop()
    left = loop.run_until_complete(main())
    if how == "cycle":
        # Only the collector finds it.
        loop.left = left
        del loop, left
"""
        assert start(program, how, status=3 if how == "exit" else 0) == "at exit\n"

    @pytest.mark.timeout(BUILDING)
    def test_fork(self, start):
        program = """
import asyncio, os
import ferroloop
import ferroloop_test_extension as extension

def child():
    # After a fork no loop runs in the child, as in asyncio.
    for name in extension.cases():
        ferroloop.run(extension.case(name))
    ferroloop.run(leave())

async def leave():
    left = extension.leave_futures()
    await asyncio.sleep(0.01)
    return left

async def main():
    left = extension.leave_futures()
    await asyncio.sleep(0.01)
    for _ in range(2):
        if not (process := os.fork()):
            status = 1
            try:
                child()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(process, 0)[1] == 0
        await extension.case(extension.cases()[0])
    print("parent")

ferroloop.run(main())
"""
        assert start(program) == "parent\n"


@pytest.fixture(scope="session", params=["ported", "original"])
def ported(request, load_extension):
    """The module of tests/rust/ported, with the crate of compat/ and with pyo3-async-runtimes."""
    module = load_extension(request.param, "ferroloop_ported")
    module.is_ours = request.param == "ported"
    return module


@pytest.mark.timeout(BUILDING)
class TestPorted:
    """An extension that was written for pyo3-async-runtimes behaves the same with our crate, on
    asyncio's loop and on ferroloop's.
    """

    @pytest.fixture(autouse=True)
    def release(self, ported):
        """Releases what Tokio's threads have dropped without the GIL."""
        yield
        for _ in range(3):
            time.sleep(0.01)
            ported.dropped()

    def test_results(self, flavour, ported):
        async def main():
            future = ported.rust_sleep(0.001)
            assert asyncio.isfuture(future)
            assert future.get_loop() is asyncio.get_running_loop()
            assert await future == 0.001
            # It is a future: it can be awaited again.
            assert await future == 0.001
            assert await asyncio.gather(*map(ported.rust_sleep, [0.002, 0.001, 0])) == [
                *(0.002, 0.001, 0)
            ]

        flavour.run(main())

    def test_python_coroutines(self, flavour, ported):
        error = LookupError("lost")

        async def double(number):
            await asyncio.sleep(0)
            return 2 * number

        async def fail(number):
            await asyncio.sleep(0)
            raise error

        async def main():
            assert await ported.collect(5, double) == [0, 2, 4, 6, 8]
            with pytest.raises(LookupError) as caught:
                await ported.collect(5, fail)
            assert caught.value is error

        flavour.run(main())

    def test_errors(self, flavour, ported, capfd):
        async def main():
            with pytest.raises(LookupError, match="lost"):
                await ported.fails()
            # The original does not find the message.
            message = "as it should" if ported.is_ours else ""
            with pytest.raises(ported.RustPanic, match=f"^rust future panicked: {message}"):
                await ported.panics()

        flavour.run(main())
        assert "panicked at" in capfd.readouterr().err

    def test_contexts_and_scopes(self, flavour, ported):
        variable = contextvars.ContextVar("variable")

        async def read():
            await asyncio.sleep(0)
            return variable.get()

        async def main():
            variable.set(7)
            future = ported.in_scope(read)
            variable.set(8)
            assert await future == 7

        flavour.run(main())

    def test_streams(self, flavour, ported):
        async def count(stop):
            for number in range(stop):
                await asyncio.sleep(0)
                yield number

        async def fail():
            yield 1
            raise LookupError("lost")

        async def main():
            # The second implementation buffers ten items.
            for stop in (0, 3, 40):
                for function in (ported.sum_v1, ported.sum_with_locals, ported.sum_v2):
                    assert await function(count(stop)) == sum(range(stop))
            with pytest.raises(LookupError, match="lost"):
                await ported.sum_v1(fail())

        flavour.run(main())

    def test_a_class_that_is_iterated(self, flavour, ported):
        async def main():
            queue = ported.Queue()
            received = anext(queue)
            await asyncio.sleep(0)
            queue.put(1)
            assert await received == 1
            if ported.is_ours:
                # With the original a cancelled step may still receive, and lose, a number.
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(queue), 0.001)
            for number in range(3):
                queue.put(number)
            queue.close()
            assert [number async for number in queue] == [0, 1, 2]

        flavour.run(main())

    def test_cancelling_drops_the_rust_future(self, flavour, ported):
        async def main():
            before = ported.dropped()
            futures = [ported.endless() for _ in range(3)]
            await ported.rust_sleep(0.001)
            assert ported.dropped() == before
            for future in futures:
                future.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await future
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ported.endless(), 0.001)
            while ported.dropped() < before + 4:
                await asyncio.sleep(0.001)

        flavour.run(main())

    def test_running_a_loop(self, flavour, ported):
        async def double(number):
            await asyncio.sleep(0)
            return 2 * number

        assert ported.run_loop(4, double) == 12
        loop = flavour.new_loop()
        with contextlib.closing(loop):
            assert ported.run_on(loop, 4, double) == 12

    @pytest.mark.only("asyncio")
    @pytest.mark.mode("plain")
    def test_a_rust_program(self, flavour, ported, capfd):
        """It makes its own loop, of asyncio with the original and of ferroloop with our crate."""
        ported.run_program()
        kind = "ferroloop.loop" if ported.is_ours else "asyncio.unix_events"
        assert capfd.readouterr().out == f"slept on {kind}\n"

    def test_local_futures(self, flavour, ported):
        if not ported.is_ours or flavour.name == "asyncio":
            pytest.skip("needs a LocalSet of Tokio")

        async def main():
            assert await ported.local_sleep(0.001) == 0.001
            future = ported.local_sleep(3600)
            await asyncio.sleep(0.001)
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future

        flavour.run(main())

    def test_a_loop_that_closes_first(self, flavour, ported, capfd):
        """The Rust future is done when its loop is closed: it has no loop to report to, and the
        program cannot prevent that.
        """
        if not ported.is_ours:
            pytest.skip("reports that the loop is closed, from a thread")
        with contextlib.closing(flavour.new_loop()) as loop:

            async def main():
                ported.rust_sleep(0.02)
                ported.collect(1, ported.rust_sleep).cancel()

            loop.run_until_complete(main())
        time.sleep(0.05)
        gc.collect()
        assert capfd.readouterr().err == ""

    def test_without_a_loop(self, flavour, ported):
        with pytest.raises(RuntimeError, match="no running event loop"):
            ported.rust_sleep(0)

    @pytest.mark.only("asyncio")
    @pytest.mark.mode("plain")
    def test_an_interpreter_that_exits_during_a_call(self, flavour, ported):
        """Before 3.14 CPython unwinds the stack of a thread that waits for the GIL then, at which
        Rust aborts the process.
        """
        if not ported.is_ours:
            pytest.skip("aborts")
        program = """
import asyncio, sys, time
import ferroloop_ported

class SlowLoop(asyncio.SelectorEventLoop):
    def call_soon_threadsafe(self, *args, **kwargs):
        super().call_soon_threadsafe(*args, **kwargs)
        # The interpreter exits while this thread waits.
        time.sleep(0.3)

class SlowExit:
    def __del__(self, sleep=time.sleep):
        sleep(0.6)

async def main():
    return await ferroloop_ported.rust_sleep(0.001)

# Not in this module: the frame of the waiting thread keeps that alive.
sys.alive = SlowExit()

with asyncio.Runner(loop_factory=SlowLoop) as runner:
    print(runner.run(main()))
"""
        paths = [str(Path(ported.__file__).parent), *filter(None, sys.path)]
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "0.001\n", "")


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
