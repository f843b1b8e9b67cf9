"""Tools that read tasks from the memory of a process: `python -m asyncio ps` and `pstree` (3.14),
and the async-aware profiler (3.15). They show our tasks as they show asyncio's."""

import asyncio
import os
import re
import struct
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import ferroloop
import pytest
from ferroloop import _ferroloop

from ..support.flavours import flavours
from ..support.programs import Program, run_program

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")

ASYNCIO, OURS = (
    next(flavour for flavour in flavours([name]) if not flavour.debug)
    for name in ("asyncio", "ferroloop")
)

seen_from_outside = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without a GIL, ferroloop's tasks are not in the lists that these tools read",
)

# The size of a task and the offsets in it, in their order in the section.
LAYOUT = {"size": 168, "name": 136, "awaited_by": 96, "is_task": 108, "is_set": 109}
LAYOUT |= {"coroutine": 128, "node": 152}


def published_offsets():
    """The beginning of the section that asyncio's C module has for tools."""
    import _asyncio

    file = getattr(_asyncio, "__file__", None) or os.path.realpath(sys.executable)
    data = Path(file).read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        pytest.skip("not a file of 64-bit Linux")
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQ", data, start + size * n) for n in range(count)]
    texts = sections[names][4]
    for name, _, _, _, place, length in sections:
        end = data.index(b"\0", texts + name)
        if data[texts + name : end] == b".AsyncioDebug":
            return struct.unpack_from(f"<{length // 8}Q", data, place)
    pytest.skip("the module is in a library")


@seen_from_outside
def test_the_published_layout_is_the_expected_one():
    assert dict(zip(LAYOUT, published_offsets()[: len(LAYOUT)], strict=True)) == LAYOUT
    assert ferroloop.Task.__basicsize__ >= LAYOUT["size"]
    assert ("the lists of tasks", True) in _ferroloop.probed_offsets()


TASKS = """
async def leaf(event):
    await event.wait()

async def waits(other):
    return await other

async def gathers(event):
    await asyncio.gather(leaf(event), asyncio.create_task(leaf(event), name="gathered"))

async def groups(event):
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf(event), name="in the group")
        group.create_task(leaf(event))

async def shields(other):
    await asyncio.shield(other)

async def waits_for_any(other):
    await asyncio.wait([other])

async def uses_a_timeout(other):
    async with asyncio.timeout(60):
        await asyncio.wait_for(other, 60)

async def main():
    event = asyncio.Event()
    create = asyncio.get_running_loop().create_task
    awaited = create(leaf(event), name="awaited")
    tasks = [awaited, *(create(waits(awaited), name=f"waits {n}") for n in range(3))]
    tasks.append(create(waits(tasks[-1])))
    tasks.append(create(gathers(event), name="gathers"))
    tasks.append(create(groups(event), name="groups"))
    for wait in (shields, waits_for_any, uses_a_timeout):
        inner = create(leaf(event), name=f"for {wait.__name__}")
        tasks += [inner, create(wait(inner), name=wait.__name__)]
    tasks.append(asyncio.Task(leaf(event), name="eager", eager_start=True))
    tasks.append(asyncio.Task(waits(tasks[-1]), name="eagerly waits", eager_start=True))
    ended = create(waits(asyncio.sleep(0)), name="ended")
    renamed = create(leaf(event), name="renamed")
    renamed.set_name("given later")
    tasks += [ended, renamed]
    await asyncio.sleep(0.05)
    SHOW
    event.set()
    await asyncio.wait(tasks)

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
"""


def shown(text):
    """What a tool has printed, without addresses and the numbers of threads."""
    text = re.sub(r"0x[0-9a-f]+", "ID", text)
    text = re.sub(r"(?m)^\d+ +", "", text)
    return [re.sub(r" {2,}", "  ", line).rstrip(" -") for line in text.splitlines()]


def run_tool(*arguments):
    answer = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    if "ermission" in answer.stdout + answer.stderr:
        pytest.skip("no right to read the memory of other processes")
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@seen_from_outside
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_tasks_seen_from_outside(command):
    source = TASKS.replace("SHOW", "print('ready', flush=True); await asyncio.to_thread(input)")

    def look(flavour):
        with Program(flavour, source) as program:
            program.wait_for_line("ready")
            # The waiters of a task may be a set.
            found = sorted(shown(run_tool("asyncio", command, program.process.pid)))
            program.process.stdin.write("\n")
            assert program.finish()[::2] == (0, "")
        return found

    ours, expected = look(OURS), look(ASYNCIO)
    assert ours == expected
    for name in ("awaited", "waits 2", "gathered", "in the group", "eager", "given later"):
        assert any(name in line for line in ours), name


def test_call_graphs():
    show = """for task in tasks:
        asyncio.print_call_graph(task)
    print(sorted(task.get_name() for task in asyncio.all_tasks()))"""
    source = TASKS.replace("SHOW", show)

    def look(flavour):
        status, out, errors = run_program(flavour, source)
        assert (status, errors) == (0, "")
        # The waiters of a task are a set.
        return sorted(shown(out))

    assert look(OURS) == look(ASYNCIO)


def test_tasks_that_end_while_they_are_awaited():
    """Nothing stays recorded: neither of tasks that were cancelled nor of those that failed."""

    async def fails():
        await asyncio.sleep(0)
        raise ValueError

    async def waits(task):
        await task

    async def main():
        for end in ("failure", "cancelled", "awaiting one cancelled"):
            task = asyncio.create_task(fails())
            waiters = [asyncio.create_task(waits(task)) for _ in range(3)]
            await asyncio.sleep(0)
            assert set(_ferroloop.recorded_waiters(task)) == {*waiters}
            if end == "cancelled":
                task.cancel()
            elif end == "awaiting one cancelled":
                waiters[1].cancel()
            await asyncio.wait(waiters)
            assert _ferroloop.recorded_waiters(task) == []
            outcomes = {one.cancelled() or repr(one.exception()) for one in waiters}
            assert outcomes == {"ValueError()" if end == "failure" else True}

    ferroloop.run(main())


def test_tasks_of_several_threads():
    """Each thread has a list; the tasks of one that has ended are in another one."""
    source = """
    def thread():
        global loop, task
        loop = new_event_loop()
        task = loop.create_task(asyncio.sleep(3600), name="of the thread")

    def names():
        return sorted(task.get_name() for task in asyncio.all_tasks(loop))

    for _ in range(2):
        worker = threading.Thread(target=thread)
        worker.start()
        worker.join()
        print(names())
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        print(names())
        loop.close()
        del task
    """
    for flavour in (OURS, ASYNCIO):
        status, out, errors = run_program(flavour, source)
        assert (status, errors) == (0, "")
        assert out.splitlines() == ["['of the thread']", "[]"] * 2


@pytest.mark.parametrize("where", ["threading.local()", "contextvars.ContextVar('variable')"])
def test_a_task_that_the_end_of_a_thread_makes(where):
    """CPython clears a thread's state after it has moved the tasks from the thread's list. A task
    that a finalizer makes then is not shown, and must not be in the list of a thread that is gone.
    """
    source = f"""
    import _thread, contextvars

    class Last:
        def __del__(self):
            tasks.append(loop.create_task(asyncio.sleep(3600)))

    def thread():
        if isinstance(place, contextvars.ContextVar):
            place.set(Last())
        else:
            place.last = Last()

    place, tasks, loop = {where}, [], new_event_loop()
    for _ in range(20):
        _thread.start_joinable_thread(thread).join()
    other = [loop.create_task(asyncio.sleep(3600)) for _ in range(5)]
    print(len(tasks), {{*other}} <= asyncio.all_tasks(loop))
    for task in [*other, *tasks]:
        task.cancel()
    loop.run_until_complete(asyncio.wait(tasks + other))
    print(len(asyncio.all_tasks(loop)))
    """
    status, out, errors = run_program(OURS, source)
    assert (status, errors) == (0, "")
    assert out.splitlines() == ["20 True", "0"]


PROFILED = """
async def leaf(event):
    await event.wait()

async def waits(other):
    await other

async def spins(end):
    while time.monotonic() < end:
        sum(range(5000))
        await asyncio.sleep(0)

async def main():
    event = asyncio.Event()
    awaited = asyncio.create_task(leaf(event), name="awaited")
    waiter = asyncio.create_task(waits(awaited), name="waiter")
    print("ready", flush=True)
    async with asyncio.TaskGroup() as group:
        for name in ("first", "second"):
            group.create_task(spins(time.monotonic() + 60), name=name)

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
"""


@seen_from_outside
@pytest.mark.skipif(sys.version_info < (3, 15), reason="new in Python 3.15")
@pytest.mark.parametrize("mode", ["all", "running"])
def test_async_aware_profile(tmp_path, mode):
    def tasks(line):
        return tuple(re.findall(r"<task>:([^:;]*)", line))

    def profile(flavour):
        with Program(flavour, PROFILED) as program:
            program.wait_for_line("ready")
            file = tmp_path / flavour.name
            options = ("--async-aware", "--async-mode", mode, "-d", 2, "--collapsed", "-o", file)
            run_tool("profiling.sampling", "attach", *options, program.process.pid)
        stacks = Counter()
        for line in file.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            stacks[tasks(stack)] += int(count)
        return stacks

    ours, expected = profile(OURS), profile(ASYNCIO)
    chains = {("Task-1", "first"), ("Task-1", "second")}
    assert chains <= set(expected)
    assert chains <= set(ours)
    # A sample may be taken while something changes.
    often = {chain for chain, count in expected.items() if count > 50}
    assert {chain for chain, count in ours.items() if count > 50} == often
