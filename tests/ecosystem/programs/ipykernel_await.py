"""ipykernel: top-level await, tasks that outlive a cell, interrupts, a full shutdown."""

import asyncio
import os
import tempfile

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from ..loops import Loop
from ..servers import ROOT

SECONDS = 60


class Kernel:
    """A running kernel and its client."""

    def __init__(self, client: AsyncKernelClient) -> None:
        self.client = client

    async def run(self, code: str) -> str:
        """What a cell returns and prints, or the name of its exception."""
        shown: list[str] = []

        def note(message: dict) -> None:
            content = message["content"]
            shown.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

        reply = await self.client.execute_interactive(code, timeout=SECONDS, output_hook=note)
        content = reply["content"]
        return "".join(shown) if content["status"] == "ok" else content["ename"]


async def check(loop: Loop, home: str) -> None:
    manager = AsyncKernelManager(transport="ipc", ip=f"{home}/kernel")
    # As a kernel's specification would do it: through ferroloop's command line.
    manager.kernel_spec.argv = [*loop.interpreter, "-m", "ipykernel_launcher", "-f"]
    manager.kernel_spec.argv.append("{connection_file}")
    await manager.start_kernel(cwd=str(ROOT))
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=SECONDS)
        await check_cells(loop, Kernel(client), manager)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()
    assert not await manager.is_alive()


async def check_cells(loop: Loop, kernel: Kernel, manager: AsyncKernelManager) -> None:
    await kernel.run("import asyncio; from tests.ecosystem.loops import running")
    assert await kernel.run("await asyncio.sleep(0.01, running())") == f"'{loop.name}'"
    assert await kernel.run("for n in range(3): print(n); await asyncio.sleep(0)") == "0\n1\n2\n"
    # A task started by one cell keeps running during others.
    await kernel.run("task = asyncio.create_task(asyncio.sleep(0.2, 'background'))")
    assert await kernel.run("task.done()") == "False"
    assert await kernel.run("await task") == "'background'"
    assert await kernel.run("1 / 0") == "ZeroDivisionError"
    assert await kernel.run("await asyncio.wait_for(asyncio.sleep(5), 0.01)") == "TimeoutError"
    server = "server = await asyncio.start_server(lambda r, w: w.close(), '127.0.0.1', 0)"
    await kernel.run(server)
    connect = "reader, _ = await asyncio.open_connection(*server.sockets[0].getsockname())"
    assert await kernel.run(f"{connect}; await reader.read()") == "b''"
    await check_interrupt(kernel, manager, "time.sleep(60)")
    # asyncio itself does not notice until something else wakes it.
    await check_interrupt(kernel, manager, "while True: await asyncio.sleep(0.05)")
    assert await kernel.run("40 + 2") == "42"


async def check_interrupt(kernel: Kernel, manager: AsyncKernelManager, code: str) -> None:
    running = asyncio.create_task(kernel.run(f"import time\n{code}"))
    await asyncio.sleep(1)
    await manager.interrupt_kernel()
    assert await asyncio.wait_for(running, SECONDS) in {"KeyboardInterrupt", "CancelledError"}


def main(loop: Loop) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        os.environ |= {"IPYTHONDIR": home, "JUPYTER_RUNTIME_DIR": home}
        loop.run(check(loop, home))
