"""Python 3.15: lazy imports, no second initialisation of tasks and futures, interpreter features.

Changes to the contexts of connections are tested in test_connection_contexts.py.
"""

import asyncio
import contextvars
import gc
import os
import subprocess
import sys

import pytest

from ..support.programs import Program, run_program

pytestmark = pytest.mark.skipif(sys.version_info < (3, 15), reason="new in Python 3.15")


async def nothing():
    pass


def refusal(function, *args, **kwargs):
    with pytest.raises((TypeError, RuntimeError)) as caught:
        function(*args, **kwargs)
    return type(caught.value), str(caught.value)


def test_a_second_init_is_refused(loop, flavour):
    class Task(flavour.Task):
        pass

    class Future(flavour.Future):
        pass

    Task.__module__ = Future.__module__ = "__main__"
    where = "test_a_second_init_is_refused.<locals>."
    # The module of the C classes, which appears nowhere else.
    module = "_asyncio" if flavour.is_asyncio else "ferroloop"
    task = flavour.Task(nothing(), loop=loop)
    for future, name in (
        (flavour.Future(loop=loop), f"{module}.Future"),
        (Future(loop=loop), f"{where}Future"),
    ):
        future.add_done_callback(print)
        text = f"{name} object is already initialized"
        assert refusal(future.__init__, loop=loop) == (RuntimeError, text)
        assert len(future._callbacks) == 1
        assert future.remove_done_callback(print) == 1
    for one, name in ((task, f"{module}.Task"), (Task(nothing(), loop=loop), f"{where}Task")):
        text = f"{name} object is already initialized"
        # Before the coroutine is checked.
        assert refusal(one.__init__, 1, loop=loop) == (RuntimeError, text)
        loop.run_until_complete(one)
        other = nothing()
        assert refusal(one.__init__, other, loop=loop) == (RuntimeError, text)
        other.close()
        assert one.done()


def test_a_first_init_may_be_late_and_fail_once(loop, flavour):
    task = flavour.Task.__new__(flavour.Task)
    assert refusal(task.__init__, 1, loop=loop) == (
        TypeError,
        "a coroutine was expected, got 1",
    )
    coroutine = nothing()
    assert refusal(task.__init__, coroutine, loop=loop)[0] is RuntimeError
    coroutine.close()
    task = flavour.Task.__new__(flavour.Task)
    task.__init__(nothing(), loop=loop)
    loop.run_until_complete(task)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("kind", ["class", "create_task"])
def test_invalid_contexts(run, flavour, kind, eager):
    class Other:
        pass

    Other.__module__ = "elsewhere"
    names = {
        1: "int",
        Other(): f"elsewhere.{Other.__qualname__}",
        contextvars.ContextVar("variable"): "_contextvars.ContextVar",
    }

    async def main():
        loop = asyncio.get_running_loop()
        if kind == "create_task":
            loop.set_task_factory(
                lambda loop, coro, **kwargs: flavour.Task(coro, loop=loop, **kwargs)
            )
        for other, name in names.items():
            make = loop.create_task if kind == "create_task" else flavour.Task
            coroutine = nothing()
            options = {} if kind == "create_task" else {"loop": loop}
            assert refusal(make, coroutine, context=other, eager_start=eager, **options) == (
                TypeError,
                f"a contextvars.Context was expected, got {name}",
            )
            coroutine.close()
        # Nothing is reported about an object that never became a task: the fixture would fail.
        gc.collect()

    run(main())


def test_an_eager_start_that_fails_is_reported_once(run, flavour):
    async def main():
        context = contextvars.copy_context()
        coroutine = nothing()
        with pytest.raises(RuntimeError, match="cannot enter context"):
            context.run(
                lambda: flavour.Task(
                    coroutine,
                    loop=asyncio.get_running_loop(),
                    context=context,
                    eager_start=True,
                )
            )
        coroutine.close()
        gc.collect()

    run(main())


# --- lazy imports (PEP 810) ------------------------------------------------------------

LAZY = ("-X", "lazy_imports=all")


def all_tasks_by(run):
    """A program that runs a coroutine with `run`, and its expected output."""
    return f"""
    if new_event_loop.__module__ != "asyncio.unix_events":
        import ferroloop

    async def main():
        background = asyncio.create_task(wait())
        await asyncio.sleep(0)
        print(len(asyncio.all_tasks()), asyncio.current_task().get_name())

    async def wait():
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            print("cancelled at the end")
            raise

    {run}
    """


@pytest.mark.parametrize(
    "run",
    [
        "asyncio.run(main(), loop_factory=new_event_loop)",
        "with asyncio.Runner(loop_factory=new_event_loop) as runner: runner.run(main())",
        "loop = new_event_loop(); loop.run_until_complete(main()); loop.close(); os._exit(0)",
    ],
    ids=["run", "Runner", "loop"],
)
def test_all_tasks_with_lazy_imports(flavour, run):
    ended = "" if "os._exit" in run else "cancelled at the end\n"
    status, out, errors = run_program(flavour, all_tasks_by(run), *LAZY)
    lines = out.splitlines()
    assert (status, errors) == (0, "")
    assert lines[0].startswith("2 Task-")
    assert "".join(f"{line}\n" for line in lines[1:]) == ended


@pytest.mark.only("ferroloop")
@pytest.mark.mode("plain")
@pytest.mark.parametrize(
    "run",
    ["ferroloop.run(main())", "ferroloop.install(); asyncio.run(main())"],
    ids=["run", "install"],
)
def test_entry_points_with_lazy_imports(flavour, run):
    status, out, errors = run_program(flavour, all_tasks_by(run), *LAZY)
    assert (status, out, errors) == (0, "2 Task-1\ncancelled at the end\n", "")


def test_all_kinds_of_work_with_lazy_imports(flavour):
    source = """
    import subprocess

    async def main():
        async def echo(reader, writer):
            writer.write(await reader.read(10))
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(b"stream")
        writer.write_eof()
        print(await reader.read())
        writer.close()
        server.close()
        child = await asyncio.create_subprocess_exec("echo", "child", stdout=subprocess.PIPE)
        print((await child.communicate())[0])
        print(await asyncio.to_thread(int, "1"))
        graph = asyncio.capture_call_graph()
        print([entry.frame.f_code.co_name for entry in graph.call_stack])
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: print(context["message"][:21]))
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.01)

    asyncio.run(main(), loop_factory=new_event_loop)

    loop = new_event_loop()
    child = os.fork()
    if child == 0:
        async def in_child():
            print(len(asyncio.all_tasks()))
        asyncio.run(in_child(), loop_factory=new_event_loop)
        os._exit(0)
    os.waitpid(child, 0)
    loop.close()
    """
    expected = "b'stream'\nb'child\\n'\n1\n['main']\nException in callback\n1\n"
    assert run_program(flavour, source, *LAZY) == (0, expected, "")


# --- new interpreter features ----------------------------------------------------------


def test_a_frozendict_as_the_environment_of_a_child(run):
    async def main():
        environment = frozendict(NAME="value", PATH=os.environ["PATH"])  # noqa: F821
        for child in (
            await asyncio.create_subprocess_shell("echo $NAME", env=environment, stdout=-1),
            await asyncio.create_subprocess_exec(
                *("sh", "-c", "echo $NAME"), env=environment, stdout=-1
            ),
        ):
            assert (await child.communicate())[0] == b"value\n"

    run(main())


def test_code_compiled_by_the_jit(flavour, monkeypatch):
    """In an interpreter without a JIT the environment variable has no effect."""
    monkeypatch.setenv("PYTHON_JIT", "1")
    source = """
    async def step(number):
        await asyncio.sleep(0)
        return number

    async def count(queue, numbers):
        for number in range(numbers):
            await queue.put(await step(number))

    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 60  # compiling takes a while
        queue = asyncio.Queue(10)
        total, called = 0, []
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(count(queue, 2000))
            for _ in range(10_000):
                total += await queue.get()
                future = loop.create_future()
                loop.call_soon(future.set_result, 1)
                total += await future
                if total % 100 == 0:
                    loop.call_soon(called.append, total)
        futures = [loop.create_future() for _ in range(5000)]
        for future in futures:
            future.cancel()
            try:
                await future
            except asyncio.CancelledError:
                total += 1
        print(total, len(asyncio.all_tasks()))

    jit = sys._jit
    assert jit.is_enabled() is jit.is_available()
    asyncio.run(main(), loop_factory=new_event_loop)
    """
    total = 5 * sum(range(2000)) + 10_000 + 5000
    assert run_program(flavour, source) == (0, f"{total} 1\n", "")


def test_monitoring_events_match_asyncio(run, flavour):
    """Each start, suspension, resumption and end of a coroutine that a task runs."""
    monitoring = sys.monitoring
    tool, seen, codes = 3, [], {}
    events = monitoring.events
    watched = {
        "start": events.PY_START,
        "resume": events.PY_RESUME,
        "yield": events.PY_YIELD,
        "return": events.PY_RETURN,
        "throw": events.PY_THROW,
        "unwind": events.PY_UNWIND,
    }

    def callback(name):
        def note(code, *rest):
            if code in codes:
                seen.append((name, codes[code]))

        return note

    async def leaf(future):
        return await future

    async def cancelled(future):
        await leaf(future)

    async def done(future):
        await leaf(future)

    async def main():
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        for function in (leaf, cancelled, done):
            codes[function.__code__] = function.__name__
            monitoring.set_local_events(tool, function.__code__, sum(watched.values()))
        tasks = asyncio.create_task(cancelled(first)), asyncio.create_task(done(second))
        await asyncio.sleep(0)
        tasks[0].cancel()
        second.set_result(None)
        await asyncio.gather(*tasks, return_exceptions=True)
        for code in codes:
            monitoring.set_local_events(tool, code, 0)

    monitoring.use_tool_id(tool, "a test")
    try:
        for name, event in watched.items():
            monitoring.register_callback(tool, event, callback(name))
        run(main())
    finally:
        for event in watched.values():
            monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)
    suspended = lambda outer: [  # noqa: E731
        ("start", outer), ("start", "leaf"), ("yield", "leaf"), ("yield", outer)
    ]  # fmt: skip
    assert seen == [
        *suspended("cancelled"),
        *suspended("done"),
        ("throw", "leaf"),
        ("unwind", "leaf"),
        ("throw", "cancelled"),
        ("unwind", "cancelled"),
        ("resume", "done"),
        ("resume", "leaf"),
        ("return", "leaf"),
        ("return", "done"),
    ]


def test_the_sampling_profiler_sees_the_functions_of_tasks(flavour, tmp_path):
    source = """
    def busy():
        return sum(range(10_000))

    async def work():
        while True:
            busy()
            await asyncio.sleep(0)

    async def main():
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        print("ready", flush=True)
        await task

    asyncio.run(main(), loop_factory=new_event_loop)
    """
    stacks = tmp_path / "stacks.txt"
    with Program(flavour, source) as program:
        program.wait_for_line("ready")
        attach = ("-m", "profiling.sampling", "attach", "-d", "1", "--collapsed", "-o", stacks)
        done = subprocess.run(
            [sys.executable, *map(str, attach), str(program.process.pid)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if "ermission" in done.stdout + done.stderr:
            pytest.skip("no right to read the memory of other processes")
        assert done.returncode == 0, done.stdout + done.stderr
    found = stacks.read_text()
    assert "main" in found or "work" in found
    assert any("work" in line and "busy" in line for line in found.splitlines())
