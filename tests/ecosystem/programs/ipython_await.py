"""IPython: top-level await, async for and async with in an interactive shell."""

import os
import subprocess
import tempfile

from ..loops import Loop
from ..servers import ROOT

CELLS = """\
import asyncio
from tests.ecosystem.loops import running
async def name(): return running()

await name()
async with asyncio.TaskGroup() as group: task = group.create_task(asyncio.sleep(0.01, "done"))

task.result()
await asyncio.gather(*(asyncio.sleep(0.01, n) for n in range(3)))
process = await asyncio.create_subprocess_exec("echo", "hello", stdout=-1)
(await process.communicate())[0]
async with asyncio.timeout(0.01): await asyncio.sleep(10)

await asyncio.to_thread(sum, range(10))
"""
ANSWERS = ["'{loop}'", "'done'", "[0, 1, 2]", "b'hello\\n'", "45"]


def main(loop: Loop) -> None:
    shell = ["-m", "IPython", "--simple-prompt", "--no-banner", "--no-confirm-exit"]
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [*loop.interpreter, *shell, "--colors=nocolor"],
            input=CELLS,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "IPYTHONDIR": home, "HOME": home},
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    outputs = [line.partition("Out[")[2].partition("]: ")[2] for line in lines if "Out[" in line]
    assert outputs == [text.format(loop=loop.name) for text in ANSWERS], done.stdout
    assert lines.count("TimeoutError: ") == 1, done.stdout
