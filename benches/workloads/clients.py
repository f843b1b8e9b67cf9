"""Client connections: the server that accepts them is not under test."""

import asyncio
import os
import socket
import threading

from benches.workload import timed

GROUP = "tcp"


def start_acceptor():
    """Fork a process that accepts and closes connections until this process ends."""
    global port
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    alive, parent = os.pipe()
    if os.fork() == 0:
        os.close(parent)
        # Not on the core of the process under test.
        others = {*range(os.cpu_count() or 1)} - os.sched_getaffinity(0)
        os.sched_setaffinity(0, others or os.sched_getaffinity(0))
        threading.Thread(target=lambda: os.read(alive, 1) or os._exit(0), daemon=True).start()
        while True:
            listener.accept()[0].close()
    os.close(alive)
    listener.close()


class Client(asyncio.Protocol):
    """Waits for the end of its connection."""

    def __init__(self):
        self.over = asyncio.get_running_loop().create_future()

    def connection_lost(self, error):
        self.over.set_result(error is None)


@timed("tcp-open", GROUP, "open a connection that the peer closes", 500, prepare=start_acceptor)
async def tcp_open(n):
    loop = asyncio.get_running_loop()
    done = 0
    for _ in range(n):
        _, client = await loop.create_connection(Client, "127.0.0.1", port)
        done += await client.over
    return done
