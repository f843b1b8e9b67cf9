"""`ferroloop.serve_introspection()` and `python -m ferroloop top | ps | stack`.

asyncio has its own from 3.14 on, which works differently: there is nothing to compare.
"""

import asyncio
import contextlib
import json
import os
import pty
import select
import socket
import stat
import subprocess
import sys
import termios
import threading
import time

import pytest

from ..support.programs import Program, run_program

pytestmark = pytest.mark.only("ferroloop")


@pytest.fixture
def ask(flavour, tmp_path):
    """Queries this process through the socket."""
    from ferroloop import _inspector

    with flavour.module.serve_introspection(tmp_path / "sock") as service:
        yield lambda **request: _inspector.ask(service.path, request)


def in_thread(loop, function):
    """Run a blocking function in a thread while the loop runs."""
    return loop.run_in_executor(None, function)


def test_metrics_and_tasks(loop, ask):
    async def waits():
        await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(waits(), name="waits")
        await asyncio.sleep(0)
        answers = await in_thread(loop, lambda: (ask(command="metrics"), ask(command="tasks")))
        task.cancel()
        return answers

    metrics, tasks = loop.run_until_complete(main())
    assert metrics["pid"] == os.getpid()
    (numbers,) = [each["metrics"] for each in metrics["loops"] if each["id"] == hex(id(loop))]
    assert numbers["turns"] >= 1
    assert numbers["pool"]["threads"] == 1
    assert set(numbers["lag"]) >= {"p50", "p90", "p99", "max", "buckets"}
    found = {task["name"]: task for task in tasks["tasks"]}
    assert found["waits"]["state"] == "waiting"
    assert found["waits"]["coroutine"].endswith("waits")
    assert found["waits"]["awaits"] == "Future"
    assert found["waits"]["where"]["function"] == "sleep"
    assert found["waits"]["caller"]["function"].endswith("waits")


def test_stacks_and_awaiters(loop, ask):
    async def inner():
        await event.wait()

    async def outer():
        await inner()

    async def waiter(task):
        await task

    async def gatherer(task):
        await asyncio.gather(task, asyncio.sleep(60))

    async def main():
        task = asyncio.create_task(outer(), name="outer")
        others = [
            asyncio.create_task(waiter(task), name="the waiter"),
            asyncio.create_task(gatherer(task), name="the gatherer"),
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        by_name = await in_thread(loop, lambda: ask(command="stack", task="outer"))
        by_id = await in_thread(loop, lambda: ask(command="stack", task=hex(id(task))))
        for other in (task, *others):
            other.cancel()
        return by_name, by_id

    event = asyncio.Event()
    by_name, by_id = loop.run_until_complete(main())
    assert by_name["tasks"] == by_id["tasks"]
    (task,) = by_name["tasks"]
    functions = [location["function"].rsplit(".", 1)[-1] for location in task["stack"]]
    assert functions == ["outer", "inner", "wait"]
    assert sorted(task["awaited_by"]) == ["the gatherer", "the waiter"]


def test_responds_while_the_loop_is_blocked(loop, ask):
    async def blocks():
        thread.start()
        done.wait(20)

    def look():
        try:
            answers.append(ask(command="stack", task="blocks"))
        finally:
            done.set()

    done, answers = threading.Event(), []
    thread = threading.Thread(target=look)
    loop.run_until_complete(loop.create_task(blocks(), name="blocks"))
    thread.join()
    (task,) = answers[0]["tasks"]
    assert task["state"] == "running"
    functions = [location["function"] for location in task["stack"]]
    assert functions[0].endswith("blocks")
    assert functions[-1] == "Condition.wait"


def test_bad_requests(flavour, ask, tmp_path):
    from ferroloop._inspector import UnreachableError

    with pytest.raises(UnreachableError, match="there is no task 'missing'"):
        ask(command="stack", task="missing")
    with pytest.raises(UnreachableError, match="the command must be"):
        ask(command="stop")
    path = str(tmp_path / "sock")
    for request in (b"not json\n", b"[]\n", b"\xff\n", b"\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(request)
            answer = json.loads(client.makefile().read())
            assert answer["ok"] is False
            assert answer["error"]
    # A client that sends nothing, or disconnects immediately, does no harm.
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.shutdown(socket.SHUT_WR)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        with contextlib.suppress(OSError):
            client.sendall(b"x" * 200_000)
    assert ask(command="metrics")["ok"]


def test_the_socket_is_private_and_removed_at_the_end(flavour, tmp_path):
    path = tmp_path / "sock"
    service = flavour.module.serve_introspection(path)
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    with pytest.raises(OSError, match="in use"):
        flavour.module.serve_introspection(path)
    service.close()
    service.close()
    assert not path.exists()


def test_leftover_files(flavour, tmp_path):
    path = tmp_path / "sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    flavour.module.serve_introspection(path).close()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        flavour.module.serve_introspection(path)
    assert path.read_text() == "precious"
    # A socket that replaced ours is not removed.
    path.unlink()
    service = flavour.module.serve_introspection(path)
    path.unlink()
    path.write_text("another")
    service.close()
    assert path.read_text() == "another"


def test_the_default_place(flavour, tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    from ferroloop._inspector import UnreachableError, ask, find_socket

    with pytest.raises(UnreachableError, match="does not serve introspection"):
        find_socket(str(os.getpid()))
    with pytest.raises(UnreachableError, match="there is no process"):
        find_socket("4194305")
    with flavour.module.serve_introspection() as service:
        assert service.path == str(tmp_path / f"ferroloop-{os.getpid()}.sock")
        assert ask(str(os.getpid()), {"command": "metrics"})["pid"] == os.getpid()
    # A directory that others can write to is refused.
    tmp_path.chmod(0o777)
    with flavour.module.serve_introspection() as service:
        assert not service.path.startswith(str(tmp_path))
    monkeypatch.setattr("ferroloop.introspection.is_private", lambda directory, uid: False)
    with pytest.raises(PermissionError, match="others can write"):
        flavour.module.serve_introspection()


PROGRAM = """
async def handler(number):
    await asyncio.sleep(60)

async def main():
    tasks = [asyncio.create_task(handler(n), name=f"handler {n}") for n in range(20)]
    print("ready", flush=True)
    await asyncio.gather(*tasks)

loop = new_event_loop()
loop.run_until_complete(main())
"""


@pytest.fixture
def program(flavour, tmp_path, monkeypatch):
    """The PID of a program that was started with FERROLOOP_INTROSPECT."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("FERROLOOP_INTROSPECT", "1")
    with Program(flavour, PROGRAM) as program:
        program.wait_for_line("ready")
        monkeypatch.delenv("FERROLOOP_INTROSPECT")
        yield program.process.pid


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "ferroloop", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        **options,
    )


@pytest.mark.mode("plain")
def test_commands(program):
    shown = command("ps", program)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["NAME", "ID", "STATE", "COROUTINE", "AWAITS", "AT"]
    assert len(lines) == 1 + 21
    assert sum("handler (<string>:" in line and "> sleep" in line for line in lines) == 20
    tasks = json.loads(command("ps", program, "--json").stdout)["tasks"]
    assert len(tasks) == 21
    shown = command("stack", program, "handler 7").stdout
    assert shown.startswith("task handler 7 (handler), waiting, 0x")
    assert ", in sleep\n  waits for Future\n  awaited by Task-1" in shown
    stack = json.loads(command("stack", program, "handler 7", "--json").stdout)["tasks"][0]["stack"]
    assert [location["function"] for location in stack] == ["handler", "sleep"]
    shown = command("top", program, "--once", "--interval", "0.1").stdout
    assert "21 tasks" in shown
    assert "\n20     handler" in shown
    assert "utilization" in shown
    assert json.loads(command("top", program, "--json").stdout)["loops"][0]["running"] is True


@pytest.mark.mode("plain")
def test_failing_commands(program, tmp_path):
    for arguments, text in [
        (("stack", program, "missing"), "ferroloop: there is no task 'missing'"),
        (("ps", 4194305), "ferroloop: there is no process 4194305"),
        (("ps", tmp_path / "none"), "No such file or directory"),
        (("top", program, "--interval", "0"), "from 0.05 to 3600 seconds"),
        (("stack", program), "the following arguments are required: TASK"),
    ]:
        shown = command(*arguments)
        assert shown.returncode != 0
        assert text in shown.stderr
        assert "Traceback" not in shown.stderr


@pytest.mark.mode("plain")
def test_top_in_a_terminal(program):
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    top = subprocess.Popen(
        [sys.executable, "-m", "ferroloop", "top", str(program), "--interval", "0.1"],
        stdin=child,
        stdout=child,
        stderr=child,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), TERM="xterm"),
    )
    os.close(child)
    shown, end = b"", time.monotonic() + 20
    while shown.count(b"\x1b[H") < 3 and time.monotonic() < end:
        if select.select([parent], [], [], 1)[0]:
            shown += os.read(parent, 65536)
    os.write(parent, b"q")
    while top.poll() is None and time.monotonic() < end:
        if select.select([parent], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # EIO: the slave side is closed
                shown += os.read(parent, 65536)
    os.close(parent)
    assert top.wait(10) == 0
    assert shown.startswith(b"\x1b[?1049h")
    assert shown.rstrip().endswith(b"\x1b[?1049l")
    assert b"21 tasks" in shown
    assert b"utilization" in shown
    first = shown.decode().partition("\x1b[H")[2].partition("\x1b[J")[0]
    lines = first.replace("\x1b[K", "").splitlines()
    assert lines[0].endswith("q quits")
    assert "100µs   1ms" in first
    assert any(line.startswith("20     handler") for line in lines)
    assert max(map(len, lines)) <= 80
    assert len(lines) < 24


@pytest.mark.mode("plain")
def test_a_script_called_top(tmp_path):
    script = tmp_path / "top"
    script.write_text("import asyncio\nprint(type(asyncio.new_event_loop()).__module__)\n")
    shown = command("./top", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, "ferroloop.loop\n"), shown.stderr


def test_exit_removes_the_socket_and_a_fork_leaves_it(flavour, tmp_path):
    source = f"""
    import ferroloop, os
    path = {str(tmp_path / "sock")!r}
    service = ferroloop.serve_introspection(path)
    if os.fork() == 0:
        service.close()
        raise SystemExit(5)
    print(os.waitstatus_to_exitcode(os.wait()[1]), os.path.exists(path))
    from ferroloop._inspector import ask
    print(ask(path, {{"command": "metrics"}})["ok"])
    """
    options = ["-W", "ignore"] if sys.version_info >= (3, 12) else []
    status, out, errors = run_program(flavour, source, *options)
    assert (status, out, errors) == (0, "5 True\nTrue\n", "")
    assert not (tmp_path / "sock").exists()


def test_the_stack_of_a_loop_that_goes_on(run):
    """The frames that are read end, and their memory is used again, as soon as they can."""
    from ferroloop import call_graph

    reading = threading.Event()
    found = []

    async def nested(depth):
        await (nested(depth - 1) if depth else asyncio.sleep(0))

    def read(thread):
        ends = time.monotonic() + 0.5
        while time.monotonic() < ends:
            stack = call_graph.thread_stack(thread)
            found.append([place.function.rpartition(".")[2] for place in stack])
        reading.set()

    async def main():
        thread = threading.Thread(target=read, args=(threading.get_ident(),))
        thread.start()
        while not reading.is_set():
            await nested(10)
        thread.join()

    run(main())
    inside = [stack for stack in found if "nested" in stack]
    assert inside
    for stack in inside:
        first = stack.index("nested")
        assert stack[first - 1] == "main"
        assert 1 <= stack.count("nested") <= 11
        assert set(stack[first:]) <= {"nested", "sleep", "__sleep0"}
