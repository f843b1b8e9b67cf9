"""Entry points of child processes: importable, as multiprocessing's start methods require."""

import asyncio
import os
import signal
import socket

from .flavours import Flavour


async def talk_to_itself() -> bytes:
    """Use timers, sockets and the pool of a loop."""
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        loop.call_later(0.01, left.send, b"hello")
        received = await loop.sock_recv(right, 100)
    return received + await loop.run_in_executor(None, bytes.upper, b" world")


def run_loop(name: str, connection) -> None:
    """Run a loop in this process and report the outcome."""
    connection.send((os.getpid(), Flavour(name, False).run(talk_to_itself())))
    connection.close()


def serve(name: str, listening: socket.socket, ready: int) -> None:
    """Answer each connection with this process's PID until SIGTERM. A byte written to the
    descriptor `ready` tells the parent that SIGTERM may be sent.
    """

    async def answer(reader, writer):
        writer.write(b"%d" % os.getpid())
        writer.close()
        await writer.wait_closed()

    async def main():
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        server = await asyncio.start_server(answer, sock=listening)
        os.write(ready, b"r")
        await stop.wait()
        server.close()
        await server.wait_closed()

    Flavour(name, False).run(main(), seconds=60)
