"""run_in_executor, the default executor, getaddrinfo."""

import asyncio
import concurrent.futures
import socket
import sys
import threading
import time

import pytest


def test_default_executor(run):
    async def main():
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, lambda: threading.current_thread().name)

    assert run(main()).startswith("asyncio_")


def test_arguments_and_results(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, pow, 2, 10) == 1024
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        future = loop.run_in_executor(None, int, "5")
        assert isinstance(future, asyncio.Future)
        return await future

    assert run(main()) == 5


def test_jobs_run_side_by_side(run):
    async def main():
        loop = asyncio.get_running_loop()
        barrier = threading.Barrier(4, timeout=20)
        await asyncio.gather(*[loop.run_in_executor(None, barrier.wait) for _ in range(4)])

    run(main())


def test_given_executor(run):
    async def main():
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
            return await loop.run_in_executor(pool, lambda: threading.current_thread().name)

    assert run(main()) == "mine_0"


def test_set_default_executor(run):
    async def main():
        loop = asyncio.get_running_loop()
        pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="default")
        loop.set_default_executor(pool)
        name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
        await loop.shutdown_default_executor()
        return name

    assert run(main()) == "default_0"


def test_only_thread_pools_may_be_the_default(loop):
    with pytest.raises(TypeError) as caught:
        loop.set_default_executor(object())
    assert str(caught.value) == "executor must be ThreadPoolExecutor instance"


def test_after_shutdown(loop):
    async def main():
        await loop.run_in_executor(None, int)
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError) as caught:
            loop.run_in_executor(None, int)
        return str(caught.value)

    assert loop.run_until_complete(main()) == "Executor shutdown has been called"


def test_cancelled_before_it_starts(run):
    async def main():
        loop = asyncio.get_running_loop()
        go, ran = threading.Event(), []
        pool = concurrent.futures.ThreadPoolExecutor(1)
        busy = loop.run_in_executor(pool, go.wait, 20)
        waiting = loop.run_in_executor(pool, ran.append, 1)
        assert waiting.cancel()
        go.set()
        await busy
        pool.shutdown()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return ran

    assert run(main()) == []


def test_cancelled_while_it_runs(run):
    async def main():
        loop = asyncio.get_running_loop()
        started, go = threading.Event(), threading.Event()

        def work():
            started.set()
            go.wait(20)

        future = loop.run_in_executor(None, work)
        await loop.run_in_executor(None, started.wait, 20)
        assert future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        go.set()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="nobody is told before 3.13")
def test_stop_iteration(run):
    async def main():
        loop = asyncio.get_running_loop()

        def stop():
            raise StopIteration

        with pytest.raises(RuntimeError):
            await asyncio.wait_for(loop.run_in_executor(None, stop), 5)

    run(main())


def test_loop_goes_on_meanwhile(run):
    async def main():
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(None, time.sleep, 0.05)
        turns = 0
        while not job.done():
            turns += 1
            await asyncio.sleep(0.001)
        return turns

    assert run(main()) > 3


def test_many_jobs(run):
    async def main():
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(None, str, i) for i in range(500)]
        return await asyncio.gather(*jobs) == [str(i) for i in range(500)]

    assert run(main())


def test_getaddrinfo(run):
    async def main():
        loop = asyncio.get_running_loop()
        for arguments in (
            ("127.0.0.1", 80),
            ("127.0.0.1", "80"),
            ("::1", 443),
            ("localhost", 22),
            (None, 0),
        ):
            ours = await loop.getaddrinfo(*arguments, type=socket.SOCK_STREAM)
            assert ours == socket.getaddrinfo(*arguments, type=socket.SOCK_STREAM)
        with pytest.raises(socket.gaierror) as caught:
            await loop.getaddrinfo("127.0.0.1", "no such service")
        with pytest.raises(socket.gaierror) as expected:
            socket.getaddrinfo("127.0.0.1", "no such service")
        assert caught.value.args == expected.value.args

    run(main())


def test_getnameinfo(run):
    async def main():
        loop = asyncio.get_running_loop()
        flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        return await loop.getnameinfo(("127.0.0.1", 80), flags)

    assert run(main()) == ("127.0.0.1", "80")
