"""Name resolution: done by the pool, with the same results, errors and states as asyncio's.

No DNS server is queried: names come from /etc/hosts, or a preloaded library answers for libc.
"""

import asyncio
import gc
import shutil
import socket
import subprocess
import textwrap
import threading
import unittest.mock
import weakref

import pytest

from ..refused import faults
from ..support.programs import run_program
from .test_getaddrinfo import compare, described, expected_answer

HOSTS = ["localhost", b"LocalHost", None]
PORTS = [
    None, 0, 53, 65535, 65536, -1, 2**31, 2**63, -(2**70), "53", b"53", "", b"", "domain",
    b"domain", "nonesuch", "5 3", "n\u00e4me", "\ud800", "53\0", b"53\0", True, 1.5, object, [],
]  # fmt: skip
FAMILIES = [0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, -1]
TYPES = [0, socket.SOCK_STREAM, 99]
FLAGS = [
    0, socket.AI_PASSIVE, socket.AI_CANONNAME, socket.AI_ADDRCONFIG,
    socket.AI_CANONNAME | socket.AI_PASSIVE, socket.AI_V4MAPPED | socket.AI_ALL,
    socket.AI_NUMERICSERV, 1 << 30,
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS, ids=repr)
def test_families_types_and_flags(run, host):
    async def main():
        loop = asyncio.get_running_loop()
        for family in FAMILIES:
            if family == socket.AF_INET6 and host is not None:
                continue  # would query DNS
            for type in TYPES:
                for flags in FLAGS:
                    await compare(loop, host, "domain", family, type, 0, flags)
        for proto in (socket.IPPROTO_TCP, socket.IPPROTO_UDP, 9999):
            await compare(loop, host, 53, 0, 0, proto)

    run(main(), seconds=60)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", b"127.1", "::1", "2001:DB8::", "fe80::1%lo", "ff02::1%1", b"fe80::1%1",
        "::1.2.3.4", "::ffff:1.2.3.4",
    ],
    ids=repr,
)  # fmt: skip
def test_addresses_with_named_ports(run, host):
    async def main():
        loop = asyncio.get_running_loop()
        for family in FAMILIES:
            for flags in FLAGS:
                if not flags & socket.AI_NUMERICSERV:
                    await compare(loop, host, "domain", family, socket.SOCK_STREAM, 0, flags)

    run(main())


@pytest.mark.parametrize("port", PORTS, ids=repr)
def test_ports(run, port):
    async def main():
        loop = asyncio.get_running_loop()
        for host in HOSTS:
            await compare(loop, host, port)
            await compare(loop, host, port, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)

    run(main())


@pytest.mark.parametrize(
    "host",
    [
        "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54",  # "localhost" to the codec
        "localhost\0x", b"localhost\0x", "a..b", ".localhost", "localhost..", "x" * 63, "x" * 64,
        f"{'x' * 64}.invalid", "\ud800", bytearray(b"localhost"), 127, object, [],
    ],
    ids=ascii,
)  # fmt: skip
def test_unusual_hosts(run, host):
    async def main():
        loop = asyncio.get_running_loop()
        for flags in (socket.AI_NUMERICHOST, 0):
            if flags == 0 and isinstance(host, str) and host.startswith("x" * 63):
                continue  # would query DNS
            await compare(loop, host, 53, flags=flags)

    run(main())


def test_bad_numbers(run):
    async def main():
        loop = asyncio.get_running_loop()
        for bad in ("text", None, 1.5, 10**20):
            for place, name in enumerate(("family", "type", "proto", "flags")):
                expected = expected_answer("localhost", 80, *[0] * place, bad)
                try:
                    got = described(await loop.getaddrinfo("localhost", 80, **{name: bad}))
                except Exception as error:
                    got = type(error), error.args, str(error)
                assert got == expected

    run(main())


def test_subclasses(run):
    class Text(str):
        pass

    class Number(int):
        pass

    class Index:
        def __index__(self):
            return 53

    async def main():
        loop = asyncio.get_running_loop()
        await compare(loop, Text("localhost"), Text("domain"))
        await compare(loop, "localhost", Number(53), Number(2), Number(1))
        await compare(loop, "localhost", Index(), type=socket.SOCK_STREAM)

    run(main())


def test_concurrent_lookups_do_not_mix(run):
    async def main():
        loop = asyncio.get_running_loop()

        async def ask(number):
            for port in range(number, 500, 50):
                entries = await loop.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
                assert {entry[4][1] for entry in entries} == {port}

        async def work():
            for number in range(50):
                assert await loop.run_in_executor(None, abs, -number) == number

        await asyncio.gather(*map(ask, range(50)), work(), work())

    run(main())


def test_a_patched_function_is_called_in_the_pool(run):
    async def main():
        loop = asyncio.get_running_loop()
        await loop.getaddrinfo("localhost", 80)
        threads = []

        def answer(*args):
            threads.append(threading.current_thread())
            return ["patched", *args]

        with unittest.mock.patch("socket.getaddrinfo", side_effect=answer) as patched:
            assert await loop.getaddrinfo("name", 80, type=1) == ["patched", "name", 80, 0, 1, 0, 0]
            patched.side_effect = socket.gaierror(7, "seven")
            with pytest.raises(socket.gaierror, match="seven"):
                await loop.getaddrinfo("localhost", 80)
        assert threads[0] is not threading.main_thread()
        await compare(loop, "localhost", 80)

    run(main())


# ---------------------------------------------------------------- cancellation and closing


def test_cancelled_at_any_time(run):
    async def main():
        loop = asyncio.get_running_loop()
        for round in range(30):
            tasks = [loop.create_task(loop.getaddrinfo("localhost", 80)) for _ in range(20)]
            for _ in range(round % 5):
                await asyncio.sleep(0)
            cancelled = tasks[round % 3 :: 2]
            for task in cancelled:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for task, result in zip(tasks, results, strict=True):
                if task in cancelled:
                    assert isinstance(result, asyncio.CancelledError) or task.done()
                else:
                    assert result == socket.getaddrinfo("localhost", 80)

    run(main(), seconds=60)


@pytest.mark.only("ferroloop")  # asyncio 3.14 has the result immediately if the thread was quick
def test_timeout(run):
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(-1):
                    await loop.getaddrinfo("localhost", 80)
        await compare(loop, "localhost", 80)

    run(main())


def test_closed_while_lookups_run(flavour, log):
    for round in range(30):
        loop = flavour.new_loop()
        tasks = [loop.create_task(loop.getaddrinfo("localhost", 80)) for _ in range(20)]
        for _ in range(1 + round % 3):
            loop.run_until_complete(asyncio.sleep(0))
        for task in tasks:
            task._log_destroy_pending = False
        executor = loop._default_executor
        loop.close()
        executor.shutdown(wait=True)
        del tasks, task, executor
    log.take()


def test_loop_dropped_while_lookups_run(flavour, unraisable):
    loop = flavour.new_loop()
    future = asyncio.ensure_future(loop.getaddrinfo("localhost", 80), loop=loop)
    future._log_destroy_pending = False
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop._default_executor.shutdown(wait=True)
    # The result has arrived, but is never retrieved.
    dead = weakref.ref(loop)
    with pytest.warns(ResourceWarning):
        del loop, future
        gc.collect()
    assert dead() is None


def test_executor_shut_down_while_lookups_wait(run):
    async def main():
        loop = asyncio.get_running_loop()
        begun, release = threading.Event(), threading.Event()
        busy = [loop.run_in_executor(None, lambda: (begun.set(), release.wait(10)))]
        begun.wait(10)
        pool = loop._default_executor
        while len(busy) < pool._max_workers:
            busy.append(loop.run_in_executor(None, release.wait, 10))
        waiting = [loop.create_task(loop.getaddrinfo("localhost", 80)) for _ in range(5)]
        while pool._work_queue.qsize() < 5:
            await asyncio.sleep(0.001)
        pool.shutdown(wait=False, cancel_futures=True)
        release.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 5
        await asyncio.gather(*busy)

    run(main())


def test_shutdown_waits_for_lookups(run):
    async def main():
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(loop.getaddrinfo("localhost", 80)) for _ in range(30)]
        await asyncio.sleep(0)
        await loop.shutdown_default_executor()
        await asyncio.sleep(0)
        expected = socket.getaddrinfo("localhost", 80)
        assert [await task for task in tasks] == [expected] * 30

    run(main())


@pytest.mark.only("ferroloop")  # asyncio leaves cancelled jobs in the queue
@pytest.mark.mode("plain")  # in debug mode Python code times each lookup
def test_a_cancelled_lookup_leaves_the_queue(run):
    import ferroloop.thread_pool

    async def main():
        loop = asyncio.get_running_loop()
        pool = ferroloop.thread_pool.ThreadPool(1)
        loop.set_default_executor(pool)
        release = threading.Event()
        blocked = loop.run_in_executor(None, release.wait, 10)
        tasks = []
        for number in range(4):
            tasks.append(loop.create_task(loop.getaddrinfo("localhost", number)))
            tasks.append(loop.run_in_executor(None, abs, number))
        await asyncio.sleep(0)
        assert pool._work_queue.qsize() == 8
        tasks[2].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert pool._work_queue.qsize() == 7
        release.set()
        results = await asyncio.gather(blocked, *tasks, return_exceptions=True)
        assert [type(result).__name__ for result in results] == [
            "bool", "list", "int", "CancelledError", "int", "list", "int", "list", "int",
        ]  # fmt: skip
        assert len(pool._threads) == 1
        assert loop.metrics().pool.jobs == 9

    run(main())


def test_manual_turns(run):
    from .test_manual_turns import run_nested

    async def main():
        loop = asyncio.get_running_loop()
        # Inside a callback: the loop itself does not continue meanwhile.
        for _ in range(3):
            entries = run_nested(loop, loop.getaddrinfo("localhost", 80))
            assert entries == socket.getaddrinfo("localhost", 80)

    run(main())


def test_loops_of_several_threads(flavour):
    failures = []

    def serve():
        loop = flavour.new_loop()
        try:
            for _ in range(20):
                lookups = [loop.getaddrinfo("localhost", 80) for _ in range(10)]
                loop.run_until_complete(gather(lookups))
            loop.run_until_complete(loop.shutdown_default_executor())
        except BaseException as error:
            failures.append(error)
        finally:
            loop.close()

    async def gather(coroutines):
        expected = socket.getaddrinfo("localhost", 80)
        assert await asyncio.gather(*coroutines) == [expected] * len(coroutines)

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ---------------------------------------------------------------- audit hooks


@pytest.mark.mode("plain")
def test_audit_arguments(flavour):
    result = run_program(
        flavour,
        """
        import socket

        def hook(event, args):
            if event == "socket.getaddrinfo":
                print(args)

        async def main():
            for host in ("localhost", b"localhost", "127.0.0.1"):
                await loop.getaddrinfo(
                    host, "domain", family=socket.AF_INET, type=socket.SOCK_STREAM,
                    proto=6, flags=socket.AI_CANONNAME,
                )
            await loop.getaddrinfo("127.0.0.1", 53, family=socket.AF_INET)

        sys.addaudithook(hook)
        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
    )
    expected = (
        "('localhost', 'domain', 2, 1, 6)\n"
        "(b'localhost', 'domain', 2, 1, 6)\n"
        "('127.0.0.1', 'domain', 2, 1, 6)\n"
        "('127.0.0.1', 53, 2, 0, 0)\n"
    )
    assert result == (0, expected, "")


@pytest.mark.only("ferroloop")  # asyncio's hooks run in the pool's thread
@pytest.mark.mode("plain")
def test_an_audit_hook_closes_the_loop(flavour):
    result = run_program(
        flavour,
        """
        def hook(event, args):
            if event == "socket.getaddrinfo":
                loop.stop()
                asyncio._set_running_loop(None)
                loop._thread_id = None
                loop._default_executor.shutdown()

        sys.addaudithook(hook)
        loop = new_event_loop()
        coroutine = loop.getaddrinfo("localhost", 80)
        try:
            coroutine.send(None)
        except RuntimeError as error:
            print(error)
        """,
    )
    assert result == (0, "cannot schedule new futures after shutdown\n", "")


# ---------------------------------------------------------------- slow lookups

SLOW_LIBC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found)
{
    lookup *next = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
    if (node != NULL && strcmp(node, "system.error") == 0) {
        errno = EMFILE;
        return EAI_SYSTEM;
    }
    if (node != NULL && strcmp(node, "slow.example") == 0) {
        char byte;
        if (write(atoi(getenv("BEGUN")), "x", 1) != 1 || read(atoi(getenv("GATE")), &byte, 1) < 0)
            abort();
        node = "127.0.0.1";
    }
    int result = next(node, service, hints, found);
    if (result == 0 && *found != NULL && (*found)->ai_canonname != NULL
        && strcmp(service, "9999") == 0)
        memset((*found)->ai_canonname, 0xff, strlen((*found)->ai_canonname));
    return result;
}
"""

SLOW_PROLOGUE = """
import contextlib, os, socket
begun, begin = os.pipe()
gate, opener = os.pipe()
os.environ.update(BEGUN=str(begin), GATE=str(gate))

def lookup(loop):
    task = loop.create_task(loop.getaddrinfo("slow.example", 80, type=socket.SOCK_STREAM))
    task._log_destroy_pending = False
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    return task

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
loop = new_event_loop()
"""


@pytest.fixture(scope="module")
def slow_libc(tmp_path_factory):
    """A library whose `getaddrinfo` takes as long as the program decides."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("slow_libc")
    (folder / "slow.c").write_text(SLOW_LIBC)
    library = folder / "slow.so"
    command = ["cc", "-shared", "-fPIC", "-o", library, folder / "slow.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.fixture
def run_slowly(flavour, slow_libc, monkeypatch):
    def run_slowly(source):
        monkeypatch.setenv(faults.PRELOAD, faults.preload(str(slow_libc)))
        return run_program(flavour, SLOW_PROLOGUE + textwrap.dedent(source))

    return run_slowly


def test_a_slow_lookup_blocks_nothing_else(run_slowly):
    result = run_slowly(
        """
        async def main():
            task = asyncio.create_task(loop.getaddrinfo("slow.example", 80))
            assert await loop.run_in_executor(None, os.read, begun, 1) == b"x"
            assert await loop.getaddrinfo("localhost", 80) == socket.getaddrinfo("localhost", 80)
            assert await asyncio.to_thread(abs, -1) == 1
            assert not task.done()
            os.write(opener, b"x")
            print(len(await task))
            await loop.shutdown_default_executor()

        loop.run_until_complete(main())
        loop.close()
        """
    )
    assert result == (0, "3\n", "")


def test_concurrency_is_limited_by_the_workers(run_slowly):
    result = run_slowly(
        """
        async def main():
            await asyncio.to_thread(abs, 1)
            limit = loop._default_executor._max_workers
            tasks = [
                loop.create_task(loop.getaddrinfo("slow.example", 80)) for _ in range(limit + 5)
            ]
            await asyncio.sleep(0)
            started = 0
            while started < limit:
                started += len(os.read(begun, 100))
            await asyncio.sleep(0.05)
            assert loop._default_executor._work_queue.qsize() == 5
            for task in tasks[-2:]:
                task.cancel()
            await asyncio.sleep(0)
            os.write(opener, b"x" * (limit + 3))
            results = await asyncio.gather(*tasks, return_exceptions=True)
            started += len(os.read(begun, 100))
            print([type(result).__name__ for result in results[-4:]], started - limit)
            assert len(loop._default_executor._threads) == limit
            await loop.shutdown_default_executor()

        loop.run_until_complete(main())
        loop.close()
        """
    )
    assert result == (0, "['list', 'list', 'CancelledError', 'CancelledError'] 3\n", "")


def test_cancelled_while_it_runs(run_slowly):
    result = run_slowly(
        """
        task = lookup(loop)
        os.read(begun, 1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        print(task.cancelled())
        os.write(opener, b"x")
        loop.run_until_complete(asyncio.sleep(0.05))
        task = lookup(loop)
        os.write(opener, b"x")
        print(loop.run_until_complete(task) == ANSWER)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """
    )
    assert result == (0, "True\nTrue\n", "")


def test_closed_while_it_runs(run_slowly):
    result = run_slowly(
        """
        task = lookup(loop)
        os.read(begun, 1)
        threads = list(loop._default_executor._threads)
        loop.close()
        print([thread.is_alive() for thread in threads])
        os.write(opener, b"x")
        for thread in threads:
            thread.join()
        print(task.done())
        """
    )
    assert result == (0, "[True]\nFalse\n", "")


def test_shutdown_waits_while_it_runs(run_slowly):
    result = run_slowly(
        """
        task = lookup(loop)
        os.read(begun, 1)

        def open_gate():
            print("opened")
            os.write(opener, b"x")

        loop.call_later(0.05, open_gate)
        loop.run_until_complete(loop.shutdown_default_executor())
        print("shut down", loop.run_until_complete(task) == ANSWER)
        loop.close()
        """
    )
    assert result == (0, "opened\nshut down True\n", "")


def test_exit_while_it_runs(run_slowly):
    result = run_slowly(
        """
        task = lookup(loop)
        os.read(begun, 1)
        threading.Timer(0.05, lambda: (print("opened"), os.write(opener, b"x"))).start()
        import atexit
        atexit.register(loop.close)
        atexit.register(print, "after the threads")
        """
    )
    assert result == (0, "opened\nafter the threads\n", "")


def test_forked_while_it_runs(run_slowly):
    result = run_slowly(
        """
        import warnings
        warnings.simplefilter("ignore")
        task = lookup(loop)
        os.read(begun, 1)
        child = os.fork()
        if child == 0:
            mine = new_event_loop()
            found = mine.run_until_complete(mine.getaddrinfo("localhost", 80))
            mine.run_until_complete(mine.shutdown_default_executor())
            mine.close()
            os._exit(0 if found == socket.getaddrinfo("localhost", 80) else 1)
        print(os.waitpid(child, 0)[1])
        os.write(opener, b"x")
        print(loop.run_until_complete(task) == ANSWER)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """
    )
    assert result == (0, "0\nTrue\n", "")


def test_system_errors_and_encoding_errors(run_slowly):
    result = run_slowly(
        """
        async def main():
            for host, port in (("system.error", 80), ("localhost", 9999)):
                try:
                    await loop.getaddrinfo(host, port, flags=socket.AI_CANONNAME)
                except Exception as error:
                    print(type(error).__name__, error)
            await loop.shutdown_default_executor()

        loop.run_until_complete(main())
        loop.close()
        """
    )
    expected = (
        "OSError [Errno 24] Too many open files\n"
        "UnicodeDecodeError 'utf-8' codec can't decode byte 0xff in position 0: "
        "invalid start byte\n"
    )
    assert result == (0, expected, "")
