"""anyio: task groups, scopes, threads, portals, sockets, TLS, processes, signals, files."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.abc import SocketStream
from anyio.streams.tls import TLSListener, TLSStream

from ..certificates import Certificates, certificates
from ..expected import expected
from ..loops import Loop, running

BODY = bytes(range(256)) * 8192


async def check_tasks() -> None:
    finished: list[int] = []

    async def work(number: int) -> None:
        await anyio.sleep(0.001 * (number % 7))
        finished.append(number)

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(work, number)
    assert sorted(finished) == list(range(200))
    with anyio.move_on_after(0.05) as scope:
        await anyio.sleep(60)
    assert scope.cancelled_caught
    with expected(ExceptionGroup) as failed:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 60)
            raise KeyError("body")
    assert [repr(error) for error in failed.error.exceptions] == ["KeyError('body')"]
    send, receive = anyio.create_memory_object_stream[int](5)
    async with anyio.create_task_group() as group, receive:

        async def produce() -> None:
            async with send:
                for number in range(500):
                    await send.send(number)

        group.start_soon(produce)
        assert [number async for number in receive] == list(range(500))


async def check_threads() -> None:
    def in_thread(number: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        return anyio.from_thread.run(double, number)

    async def double(number: int) -> int:
        await anyio.sleep(0)
        return number * 2

    results: dict[int, int] = {}

    async def ask(number: int) -> None:
        results[number] = await anyio.to_thread.run_sync(in_thread, number)

    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(ask, number)
    assert results == {number: number * 2 for number in range(100)}


async def echo(stream: SocketStream | TLSStream) -> None:
    async with stream:
        try:
            async for data in stream:
                await stream.send(data)
        except anyio.EndOfStream:
            pass


async def check_echo(serve: Callable, connect: Callable) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(serve, echo)
        for _ in range(3):
            async with await connect() as stream, anyio.create_task_group() as both:
                both.start_soon(stream.send, BODY)
                received = bytearray()
                while len(received) < len(BODY):
                    received += await stream.receive()
            assert bytes(received) == BODY
        # anyio 4.16 reports an error where a cancelled receive finds data in the same turn.
        await anyio.sleep(0.05)
        group.cancel_scope.cancel()


async def check_sockets(tls: Certificates, directory: str) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        await check_echo(listener.serve, lambda: anyio.connect_tcp("127.0.0.1", port))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        secure = TLSListener(listener, tls.server(), standard_compatible=False)
        options = {"ssl_context": tls.client(), "tls_standard_compatible": False}
        options |= {"tls_hostname": "localhost"}
        await check_echo(secure.serve, lambda: anyio.connect_tcp("127.0.0.1", port, **options))
    path = os.path.join(directory, "socket")
    async with await anyio.create_unix_listener(path) as listener:
        await check_echo(listener.serve, lambda: anyio.connect_unix(path))
    async with (
        await anyio.create_udp_socket(local_host="127.0.0.1") as one,
        await anyio.create_udp_socket(local_host="127.0.0.1") as other,
    ):
        address = other.extra(anyio.abc.SocketAttribute.local_address)
        for number in range(50):
            await one.sendto(b"datagram %d" % number, *address)
            assert (await other.receive())[0] == b"datagram %d" % number


async def check_processes() -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(3)"
    done = await anyio.run_process(
        [sys.executable, "-c", code], input=b"text" * 50_000, check=False
    )
    assert (done.returncode, done.stdout) == (3, b"TEXT" * 50_000)
    async with await anyio.open_process([sys.executable, "-c", "input()"]) as process:
        with anyio.move_on_after(0.05):
            await process.wait()
        process.terminate()
        assert await process.wait() == -signal.SIGTERM


async def check_signals() -> None:
    with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert await anext(signals) == signal.SIGUSR1
        os.kill(os.getpid(), signal.SIGUSR2)
        assert await anext(signals) == signal.SIGUSR2


async def check_files(directory: str) -> None:
    path = anyio.Path(directory, "file")
    assert await path.write_bytes(BODY) == len(BODY)
    async with await anyio.open_file(path, "rb") as file:
        assert await file.read() == BODY


async def check(loop: Loop, tls: Certificates, directory: str) -> None:
    assert running() == loop.name
    await check_tasks()
    await check_threads()
    await check_sockets(tls, directory)
    await check_processes()
    await check_signals()
    await check_files(directory)


def main(loop: Loop) -> None:
    options = {"loop_factory": loop.factory}
    with certificates() as tls, tempfile.TemporaryDirectory(dir="/tmp") as directory:
        anyio.run(check, loop, tls, directory, backend_options=options)
    with anyio.from_thread.start_blocking_portal(backend_options=options) as portal:

        async def name() -> str:
            await anyio.sleep(0)
            return running()

        assert [portal.call(name) for _ in range(50)] == [loop.name] * 50
        assert portal.start_task_soon(name).result() == loop.name
