"""Blocking work in threads: run_in_executor, to_thread, and back with run_coroutine_threadsafe."""

import asyncio
import concurrent.futures
import threading
import time


def block(seconds: float) -> str:
    time.sleep(seconds)
    return threading.current_thread().name.partition("_")[0]


def fail() -> None:
    raise OSError("from the thread")


async def main() -> None:
    loop = asyncio.get_running_loop()
    print("default:", await loop.run_in_executor(None, block, 0.01))
    print("to_thread:", await asyncio.to_thread(block, 0.01))
    with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="own") as pool:
        print("own:", await loop.run_in_executor(pool, block, 0.01))

    started = time.perf_counter()
    await asyncio.gather(*[asyncio.to_thread(block, 0.1) for _ in range(4)])
    print("four at once:", time.perf_counter() - started < 0.35)

    try:
        await asyncio.to_thread(fail)
    except OSError as error:
        print("error:", error)

    def from_thread() -> str:
        future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, "from the loop"), loop)
        return future.result(5)

    print("threadsafe:", await asyncio.to_thread(from_thread))


asyncio.run(main())
