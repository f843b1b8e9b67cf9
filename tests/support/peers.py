"""The other end of a connection: plain blocking sockets in a thread, no event loop."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

SECONDS = 20


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None], count: int = 1) -> Iterator[tuple[str, int]]:
    """The address of a server whose thread passes each of `count` connections to `serve`."""
    errors: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)

        def work() -> None:
            try:
                for _ in range(count):
                    connection, _ = server.accept()
                    connection.settimeout(SECONDS)
                    with connection:
                        serve(connection)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            thread.join(SECONDS)
            assert not thread.is_alive(), "the peer hangs"
    if errors:
        raise errors[0]


def echo(connection: socket.socket) -> None:
    """Send back everything received until the peer half-closes."""
    while data := connection.recv(65536):
        connection.sendall(data)


def receive_all(connection: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    chunks = []
    while data := connection.recv(65536):
        chunks.append(data)
    return b"".join(chunks)


def connect(address: tuple[str, int]) -> socket.socket:
    """A blocking client."""
    return socket.create_connection(address[:2], timeout=SECONDS)


def reset(connection: socket.socket) -> None:
    """Close with a reset instead of an orderly shutdown."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
