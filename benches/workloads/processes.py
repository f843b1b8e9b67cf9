"""Child processes and the pipes to them."""

import asyncio

from benches.workload import timed

GROUP = "processes"
CHUNK = bytes(1024 * 1024)


@timed("process-spawn", GROUP, "spawn /bin/true and wait for it", 50, parallel=True)
async def process_spawn(n):
    done = 0
    for _ in range(n):
        process = await asyncio.create_subprocess_exec("/bin/true")
        done += await process.wait() == 0
    return done


@timed("process-spawn-8", GROUP, "the same, 8 at a time", 96, parallel=True)
async def process_spawn_8(n):
    return sum(await asyncio.gather(*[process_spawn(n // 8) for _ in range(8)]))


def grow():
    """Make this process large, so that copying its page tables to start a child is expensive."""
    global ballast
    ballast = b"x" * (2 << 30)


timed(
    "process-spawn-2g",
    GROUP,
    "spawn /bin/true from a process of 2 GiB",
    50,
    parallel=True,
    large=True,
    prepare=grow,
)(process_spawn)
timed(
    "process-spawn-8-2g",
    GROUP,
    "the same, 8 at a time",
    96,
    parallel=True,
    large=True,
    prepare=grow,
)(process_spawn_8)


@timed("process-pipe", GROUP, "32 MiB through cat (per MiB)", 32, parallel=True)
async def process_pipe(n):
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=pipe, stdout=pipe)

    async def feed():
        for _ in range(n):
            process.stdin.write(CHUNK)
            await process.stdin.drain()
        process.stdin.close()

    async def drain():
        received = 0
        while data := await process.stdout.read(256 * 1024):
            received += len(data)
        return received

    _, received = await asyncio.gather(feed(), drain())
    assert await process.wait() == 0
    return received // len(CHUNK)


@timed(
    "process-communicate", GROUP, "communicate() with a shell, 1 KiB each way", 50, parallel=True
)
async def process_communicate(n):
    pipe = asyncio.subprocess.PIPE
    text = b"x" * 1024
    done = 0
    for _ in range(n):
        process = await asyncio.create_subprocess_shell("cat", stdin=pipe, stdout=pipe)
        out, _ = await process.communicate(text)
        done += out == text
    return done
