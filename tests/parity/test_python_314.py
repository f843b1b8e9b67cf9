"""Python 3.14: call graphs, eager_start, deprecated policies, handles and threads."""

import asyncio
import io
import subprocess
import sys
import sysconfig
import textwrap
import threading
import warnings

import ferroloop
import pytest

from ..support.programs import Program

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")


def names(graph):
    return [entry.frame.f_code.co_name for entry in graph.call_stack]


def test_call_graph_of_a_waiting_task(run):
    async def leaf(future):
        await future

    async def branch(future):
        await leaf(future)

    async def main():
        future = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(branch(future), name="waits")
            await asyncio.sleep(0)
            graph = asyncio.capture_call_graph(task)
            assert graph.future is task
            assert names(graph) == ["leaf", "branch"]
            text = asyncio.format_call_graph(task)
            assert "Task(name='waits'" in text
            assert "leaf()" in text
            assert "branch()" in text
            printed = io.StringIO()
            asyncio.print_call_graph(task, file=printed)
            assert printed.getvalue().rstrip() == text.rstrip()
            future.set_result(None)

    run(main())


def test_call_graph_shows_awaiters(run):
    async def inner():
        return asyncio.capture_call_graph()

    async def outer():
        task = asyncio.create_task(inner(), name="inner")
        return task, await task

    async def main():
        task = asyncio.create_task(outer(), name="outer")
        inner_task, graph = await task
        assert graph.future is inner_task
        assert names(graph)[-1] == "inner"
        assert [waiter.future for waiter in graph.awaited_by] == [task]
        assert names(graph.awaited_by[0]) == ["outer"]
        (main_graph,) = graph.awaited_by[0].awaited_by
        assert main_graph.future is asyncio.current_task()
        # A task whose result has arrived is no longer waiting.
        assert asyncio.capture_call_graph(inner_task).awaited_by == ()

    run(main())


@pytest.mark.parametrize("how", ["gather", "wait", "group"])
def test_call_graph_shows_awaiters_of_several_tasks(run, how):
    async def waits(event):
        await event.wait()

    async def waits_for_all(event, tasks):
        if how == "gather":
            tasks += [asyncio.create_task(waits(event)) for _ in range(2)]
            await asyncio.gather(*tasks)
        elif how == "wait":
            tasks += [asyncio.create_task(waits(event)) for _ in range(2)]
            await asyncio.wait(tasks)
        else:
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(waits(event)) for _ in range(2)]

    async def main():
        event, tasks = asyncio.Event(), []
        parent = asyncio.create_task(waits_for_all(event, tasks), name="parent")
        await asyncio.sleep(0.001)
        for task in tasks:
            (waiter,) = asyncio.capture_call_graph(task).awaited_by
            assert waiter.future is parent
            assert names(waiter)[-1] == "waits_for_all"
        event.set()
        await parent
        assert asyncio.capture_call_graph(tasks[0]).awaited_by == ()

    run(main())


def waiters(future):
    return sorted(
        entry.future.get_name() for entry in asyncio.capture_call_graph(future).awaited_by
    )


def test_call_graph_of_as_completed(run):
    async def consume(tasks):
        for completed in asyncio.as_completed(tasks):
            await completed

    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(0.01)) for _ in range(2)]
        consumer = asyncio.create_task(consume(tasks), name="consumer")
        await asyncio.sleep(0)
        assert [waiters(task) for task in tasks] == [["consumer"]] * 2
        await consumer
        assert [waiters(task) for task in tasks] == [[]] * 2

    run(main())


@pytest.mark.parametrize("kind", ["loop", "asyncio"])
def test_call_graph_of_a_future(run, kind):
    async def waits(future):
        await future

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future() if kind == "loop" else asyncio.Future()
        task = asyncio.create_task(waits(future), name="waits")
        await asyncio.sleep(0)
        assert waiters(future) == ["waits"]
        future.set_result(None)
        await task
        assert waiters(future) == []

    run(main())


@pytest.mark.parametrize("combine", [asyncio.gather, asyncio.shield], ids=["gather", "shield"])
def test_call_graph_before_the_await(run, combine):
    async def main():
        asyncio.current_task().set_name("main")
        task = asyncio.create_task(asyncio.sleep(0.001))
        combined = combine(task)
        assert waiters(task) == ["main"]
        await combined
        assert waiters(task) == []

    run(main())


@pytest.mark.parametrize("kind", ["loop", "asyncio"])
def test_call_graph_extended_by_the_program(run, kind):
    async def main():
        task = asyncio.current_task()
        task.set_name("main")
        loop = asyncio.get_running_loop()
        future = loop.create_future() if kind == "loop" else asyncio.Future()
        for _ in range(2):
            asyncio.future_add_to_awaited_by(future, task)
        assert waiters(future) == ["main"]
        asyncio.future_discard_from_awaited_by(future, task)
        asyncio.future_discard_from_awaited_by(future, task)
        assert waiters(future) == []
        for other in (1, object(), "future"):
            asyncio.future_add_to_awaited_by(other, task)
            asyncio.future_add_to_awaited_by(future, other)
            asyncio.future_discard_from_awaited_by(other, task)
            asyncio.future_discard_from_awaited_by(future, other)
        assert waiters(future) == []

    run(main())


def test_keywords_reach_the_task_factory(run):
    seen = []

    async def nothing():
        return 1

    def factory(loop, coro, **keywords):
        seen.append(sorted(keywords))
        return asyncio.Task(coro, loop=loop, **keywords)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        given = (
            {},
            {"eager_start": None},
            {"eager_start": False},
            {"name": None},
            {"context": None},
        )
        for keywords in given:
            await loop.create_task(nothing(), **keywords)
        assert seen == [sorted(keywords) for keywords in given]
        loop.set_task_factory(None)

    run(main())


def test_a_forked_child_has_no_tasks(flavour):
    source = """
    import os, warnings
    warnings.simplefilter("ignore")

    async def names():
        return len(asyncio.all_tasks()), len(asyncio.all_tasks(outer))

    async def main():
        global outer
        outer = asyncio.get_running_loop()
        other = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
        if (pid := os.fork()) == 0:
            shown = len(asyncio.all_tasks(outer)), asyncio.current_task(outer) is None
            loop = new_event_loop()
            print("child", *shown, *loop.run_until_complete(names()), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print("parent", len(asyncio.all_tasks()), flush=True)
        other.cancel()

    loop = new_event_loop()
    loop.run_until_complete(main())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    """
    with Program(flavour, source) as program:
        status, out, err = program.finish()
    assert (status, err) == (0, "")
    assert out.splitlines() == ["child 0 True 1 0", "parent 2"]


def test_call_graph_of_the_running_task(run):
    async def inner():
        return asyncio.capture_call_graph(), asyncio.capture_call_graph(limit=1)

    async def main():
        graph, short = await inner()
        assert graph.future is asyncio.current_task()
        assert names(graph)[:2] == ["inner", "main"]
        assert len(short.call_stack) == 1
        # A future works like a task, but has no stack.
        future = asyncio.get_running_loop().create_future()
        assert asyncio.capture_call_graph(future).call_stack == ()
        assert asyncio.format_call_graph(future).startswith("* Future(id=")

    run(main())


@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_introspection_from_outside(flavour, command):
    """`python -m asyncio ps` reads another process's memory; `python -m ferroloop ps` asks it."""
    source = """
    import ferroloop

    async def leaf():
        await asyncio.sleep(60)

    async def main():
        with ferroloop.serve_introspection():
            task = asyncio.create_task(leaf(), name="the leaf")
            await asyncio.sleep(0)
            print("ready", flush=True)
            await task

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """

    def look(module, command, pid):
        answer = subprocess.run(
            [sys.executable, "-m", module, command, str(pid)],
            capture_output=True,
            text=True,
            timeout=30,
        )
        if "ermission" in answer.stdout + answer.stderr:
            pytest.skip("no right to read the memory of other processes")
        assert (answer.returncode, answer.stderr) == (0, "")
        return answer.stdout

    with Program(flavour, source) as program:
        program.wait_for_line("ready")
        # Without a GIL, ferroloop's tasks are not in the lists that this command reads.
        is_listed = flavour.is_asyncio or not sysconfig.get_config_var("Py_GIL_DISABLED")
        assert ("the leaf" in look("asyncio", command, program.process.pid)) is is_listed
        if not flavour.is_asyncio:
            assert "the leaf" in look("ferroloop", "ps", program.process.pid)


@pytest.mark.parametrize("eager", [True, False])
def test_eager_start(run, eager):
    async def main():
        steps = []

        async def child():
            steps.append("child")
            return 5

        task = asyncio.create_task(child(), eager_start=eager)
        steps.append("parent")
        assert task.done() is eager
        assert await task == 5
        assert steps == (["child", "parent"] if eager else ["parent", "child"])

    run(main())


def test_eager_start_overrides_the_factory(run):
    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        task = asyncio.create_task(asyncio.sleep(0, 1), eager_start=False)
        eager = asyncio.create_task(asyncio.sleep(0))
        assert eager._fut_waiter is None
        assert await task == 1
        await eager

    run(main())


@pytest.mark.only("ferroloop")
def test_install_does_not_warn(flavour):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ferroloop.install()
        try:
            with asyncio.Runner() as runner:
                assert isinstance(runner.get_loop(), ferroloop.EventLoop)
        finally:
            ferroloop.uninstall()


def test_cancelling_a_handle_in_another_thread(loop):
    """Each callback either runs or is cancelled before it runs."""
    rounds, ran, cancelled = 200, [], []
    ready = threading.Barrier(2)

    def other():
        ready.wait()
        for number in range(rounds):
            handle = loop.call_soon_threadsafe(ran.append, number)
            if number % 2:
                handle.cancel()
            if handle.cancelled():
                cancelled.append(number)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait()
    loop.run_forever()
    thread.join()
    assert cancelled == list(range(1, rounds, 2))
    assert set(ran) >= set(range(0, rounds, 2))
    assert len(ran) == len(set(ran))


def test_imported_by_a_running_task():
    # The place where the interpreter keeps the current task is found by changing the current task.
    source = f"""
        import sys; sys.path[:] = {sys.path!r}
        import asyncio

        async def main():
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            import ferroloop
            assert asyncio.get_running_loop() is loop
            assert asyncio.current_task() is task
            await asyncio.sleep(0)
            assert asyncio.current_task() is task

        asyncio.run(main())
        import ferroloop
        ferroloop.run(asyncio.sleep(0))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_child_watcher_assigned_to_the_loop(flavour):
    class Watcher:
        def __init__(self, watcher):
            self.watcher = watcher
            self.seen = []

        def __getattr__(self, name):
            return getattr(self.watcher, name)

        def add_child_handler(self, pid, callback, *args):
            self.seen.append(pid)
            self.watcher.add_child_handler(pid, callback, *args)

    async def main():
        loop = asyncio.get_running_loop()
        stock = loop._watcher
        assert loop._watcher is stock
        assert type(stock).__module__ == "asyncio.unix_events"
        loop._watcher = watcher = Watcher(stock)
        child = await asyncio.create_subprocess_exec("false")
        assert await child.wait() == 1
        assert watcher.seen == [child.pid]

    flavour.run(main())
