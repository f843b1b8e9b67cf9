"""The program that PyInstaller freezes: uses, in turn, everything that makes the loop import."""

import asyncio
import os
import signal
import ssl
import sys


async def use_streams() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    # A host name, which the pool resolves.
    reader, writer = await asyncio.open_connection("localhost", port)
    writer.write(b"hello\n")
    assert await reader.read() == b"hello\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def use_datagrams() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    transport.close()


async def use_processes_and_signals() -> None:
    loop = asyncio.get_running_loop()
    process = await asyncio.create_subprocess_exec("echo", "x", stdout=asyncio.subprocess.PIPE)
    assert await process.communicate() == (b"x\n", None)
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await came.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


async def use_tasks() -> None:
    task = asyncio.create_task(asyncio.sleep(60), name="sleeper")
    await asyncio.sleep(0)
    task.print_stack(file=open(os.devnull, "w"))  # noqa: SIM115
    if hasattr(asyncio, "capture_call_graph"):
        asyncio.capture_call_graph(task)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def use_diagnostics() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    reported: list[str] = []
    loop.set_exception_handler(lambda loop, context: reported.append(context["message"]))
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0.001)
    assert len(reported) == 1
    loop.set_debug(False)
    if sys.argv[1] == "ferroloop":
        import ferroloop
        from ferroloop.metrics import render_prometheus

        assert "ferroloop_turns_total" in render_prometheus()
        with ferroloop.watch(), ferroloop.serve_introspection("introspection.socket"):
            await asyncio.sleep(0.001)


async def main() -> None:
    await asyncio.wait_for(use_streams(), 30)
    await asyncio.wait_for(use_datagrams(), 30)
    await asyncio.wait_for(use_processes_and_signals(), 30)
    await asyncio.wait_for(use_tasks(), 30)
    await asyncio.wait_for(use_diagnostics(), 30)
    assert await asyncio.to_thread(len, "abc") == 3
    assert ssl.create_default_context() is not None
    await asyncio.get_running_loop().shutdown_default_executor()
    print(type(asyncio.get_running_loop()).__module__.partition(".")[0])


if sys.argv[1] == "ferroloop":
    from ferroloop import new_event_loop
else:
    from asyncio import SelectorEventLoop as new_event_loop

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
