"""Awaits functions that are written in Rust, in a separate extension module.

``make example-rust-function`` builds the module and runs this.
"""

import asyncio
import socket

import ferroloop
import rust_function


async def double(number: int) -> int:
    """Called and awaited by Rust."""
    await asyncio.sleep(0)
    return 2 * number


async def main() -> None:
    # A Rust future that waits for a socket, and Python code that writes to it meanwhile.
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        checksum = asyncio.create_task(rust_function.checksum(ours.fileno()))
        loop = asyncio.get_running_loop()
        for _ in range(3):
            await loop.sock_sendall(theirs, bytes(range(256)) * 1000)
        theirs.shutdown(socket.SHUT_WR)
        print("checksum:", await checksum)

    # A task that Rust starts, which awaits Python coroutines.
    task = rust_function.countdown(3, 0.001, double)
    print("countdown:", task.get_name(), await task)

    # Many at once, each finished by a thread of the module.
    print("fibonacci:", await asyncio.gather(*map(rust_function.fibonacci, range(10, 20))))

    # A timeout cancels the task, and cancelling drops the Rust future.
    try:
        async with asyncio.timeout(0.01):
            await rust_function.countdown(3, 60, double)
    except TimeoutError:
        print("time is up")

    try:
        await rust_function.panics()
    except RuntimeError as error:
        print("panic:", error)


if __name__ == "__main__":
    ferroloop.run(main())
