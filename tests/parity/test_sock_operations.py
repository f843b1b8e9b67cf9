"""`loop.sock_recv()` and related methods on plain sockets."""

import asyncio
import contextlib
import errno
import inspect
import socket

import pytest

from ..support.turns import until_waiting


@pytest.fixture
def pair():
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


def test_data_already_available(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        b.send(b"hello")
        assert await loop.sock_recv(a, 3) == b"hel"
        buffer = bytearray(8)
        assert await loop.sock_recv_into(a, buffer) == 2
        assert buffer == b"lo\0\0\0\0\0\0"
        assert await loop.sock_sendall(a, memoryview(b"back")) is None
        assert b.recv(10) == b"back"
        b.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(a, 10) == b""

    run(main())


def test_waiting_repeatedly(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        for number in range(200):
            waiting = loop.create_task(loop.sock_recv(a, 100))
            await until_waiting()
            assert not waiting.done()
            b.send(b"%d" % number)
            assert await waiting == b"%d" % number

    run(main())


@pytest.mark.parametrize("size", [1, 1000, 65_536, 65_537, 200_000, 5_000_000])
def test_all_sizes_both_ways(run, pair, size):
    a, b = pair
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]

    async def main():
        loop = asyncio.get_running_loop()

        async def receive():
            received = bytearray()
            while len(received) < size:
                received += await loop.sock_recv(b, 1 << 18)
            return received

        receiving = loop.create_task(receive())
        await loop.sock_sendall(a, data)
        assert await receiving == data

    run(main())


def test_they_are_coroutines(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        operation = loop.sock_recv(a, 10)
        assert asyncio.iscoroutine(operation)
        assert inspect.isawaitable(operation)
        task = asyncio.create_task(operation)
        await until_waiting()
        assert "sock_recv" in repr(task)
        b.send(b"x")
        assert await task == b"x"
        b.send(b"y")
        assert await asyncio.ensure_future(loop.sock_recv(a, 10)) == b"y"
        b.send(b"z")
        assert await asyncio.wait_for(loop.sock_recv(a, 10), 5) == b"z"
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            operation.send(None)
        # Nothing happens before it is awaited.
        b.send(b"later")
        unused = loop.sock_recv(a, 10)
        unused.close()
        assert await loop.sock_recv(a, 10) == b"later"

    run(main())


def test_never_awaited(run, pair):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.warns(RuntimeWarning, match=r"coroutine '.*\.sock_recv' was never awaited"):
            loop.sock_recv(pair[0], 10)

    run(main())


@pytest.mark.only("ferroloop")  # asyncio loses what arrives before the cancellation
def test_cancelling_loses_nothing(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        for turns in range(6):
            task = loop.create_task(loop.sock_recv(a, 10))
            await until_waiting()
            b.send(b"data")
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                got = await task
            except asyncio.CancelledError:
                got = await asyncio.wait_for(loop.sock_recv(a, 10), 5)
            assert got == b"data", turns

    run(main())


def test_cancelled_and_waiting_again(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.sock_recv(a, 10), 0.01)
        task = loop.create_task(loop.sock_recv(a, 10))
        await until_waiting()
        b.send(b"second")
        assert await task == b"second"

    run(main())


@contextlib.contextmanager
def socket_that_blocks(kind):
    """A socket on which `kind` blocks, and an address to connect to."""
    with contextlib.ExitStack() as opened:
        address = None
        if kind in ("recvfrom", "recvfrom_into"):
            end = opened.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            end.bind(("127.0.0.1", 0))
        elif kind == "accept":
            end = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        elif kind == "connect":
            # The backlog is full, and no connection is accepted.
            listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            address = listener.getsockname()
            for _ in range(4):
                holder = opened.enter_context(socket.socket())
                holder.setblocking(False)
                holder.connect_ex(address)
            end = opened.enter_context(socket.socket())
        else:
            end, peer = socket.socketpair()
            opened.enter_context(end)
            opened.enter_context(peer)
        end.setblocking(False)
        if kind == "sendall":
            with contextlib.suppress(BlockingIOError):
                while True:
                    end.send(b"x" * 65536)
        yield end, address


CALLS = ["recv", "recv_into", "recvfrom", "recvfrom_into", "accept", "sendall", "connect"]


def start_call(loop, kind, end, address):
    """A task that waits in `sock_{kind}`."""
    argument = {
        "recv": 10,
        "recv_into": bytearray(10),
        "recvfrom": 10,
        "recvfrom_into": bytearray(10),
        "sendall": b"more" * 100_000,
        "connect": address,
    }
    arguments = [argument[kind]] if kind in argument else []
    return loop.create_task(getattr(loop, f"sock_{kind}")(end, *arguments))


# asyncio's calls wait forever.
@pytest.mark.only("ferroloop")
@pytest.mark.parametrize("how", ["close", "detach"])
@pytest.mark.parametrize("kind", CALLS)
def test_a_socket_closed_under_a_waiting_call(run, kind, how):
    async def main():
        loop = asyncio.get_running_loop()
        with socket_that_blocks(kind) as (end, address):
            task = start_call(loop, kind, end, address)
            await until_waiting()
            number = end.detach() if how == "detach" else end.close()
            # No timer and no descriptor wakes the loop: it checks before it sleeps.
            with pytest.raises(OSError) as raised:
                await task
            assert raised.value.errno == errno.EBADF
            if how == "detach":
                # The new owner of the descriptor can wait for it again.
                with socket.socket(fileno=number) as successor:
                    successor.setblocking(False)
                    task = start_call(loop, kind, successor, address)
                    await until_waiting()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task

    run(main())


@pytest.mark.only("ferroloop")
def test_many_sockets_closed_under_waiting_calls(run):
    async def main():
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(300)]
        for ours, _ in pairs:
            ours.setblocking(False)
        tasks = [loop.create_task(loop.sock_recv(ours, 10)) for ours, _ in pairs]
        await until_waiting()
        # Cancelled calls make room for others.
        for task in tasks[100:200]:
            task.cancel()
        await asyncio.wait(tasks[100:200])
        again = [loop.create_task(loop.sock_recv(ours, 10)) for ours, _ in pairs[100:150]]
        await until_waiting()
        for ours, _ in pairs[50:125]:
            ours.close()
        ended = [*tasks[50:100], *again[:25]]
        for result in await asyncio.gather(*ended, return_exceptions=True):
            assert isinstance(result, OSError), result
            assert result.errno == errno.EBADF
        alive = [*tasks[:50], *again[25:], *tasks[200:]]
        assert not any(task.done() for task in alive)
        for _, peer in [*pairs[:50], *pairs[125:150], *pairs[200:]]:
            peer.send(b"still here")
        assert set(await asyncio.gather(*alive)) == {b"still here"}
        for ours, peer in pairs:
            ours.close()
            peer.close()

    run(main())


# asyncio's calls wait forever, and the wait on the other socket also fails or never ends.
@pytest.mark.only("ferroloop")
@pytest.mark.parametrize("kind", CALLS)
def test_a_descriptor_number_reused_during_a_waiting_call(run, kind):
    async def main():
        loop = asyncio.get_running_loop()
        with socket_that_blocks(kind) as (end, address):
            number = end.fileno()
            task = start_call(loop, kind, end, address)
            await until_waiting()
            end.close()
            other, peer = socket.socketpair()
            with other, peer:
                if peer.fileno() == number:
                    other, peer = peer, other
                assert other.fileno() == number
                other.setblocking(False)
                receiving = loop.create_task(loop.sock_recv(other, 100))
                await until_waiting()
                peer.send(b"for the other")
                assert await asyncio.wait_for(receiving, 5) == b"for the other"
                # The first call notices that its socket is closed, and leaves the other alone.
                with pytest.raises(OSError) as raised:
                    await asyncio.wait_for(task, 5)
                assert raised.value.errno == errno.EBADF
                peer.setblocking(False)
                with pytest.raises(BlockingIOError):
                    peer.recv(10)

    run(main())


def test_the_number_of_a_closed_socket_is_reused(run):
    async def main():
        loop = asyncio.get_running_loop()
        numbers = []
        for _ in range(5):
            a, b = socket.socketpair()
            a.setblocking(False)
            numbers.append(a.fileno())
            task = loop.create_task(loop.sock_recv(a, 10))
            await until_waiting()
            b.send(b"new")
            assert await asyncio.wait_for(task, 5) == b"new"
            # And with other kinds of readers.
            a.close()
            b.close()
            a, b = socket.socketpair()
            a.setblocking(False)
            numbers.append(a.fileno())
            ready = asyncio.Event()
            loop.add_reader(a, ready.set)
            b.send(b"x")
            await asyncio.wait_for(ready.wait(), 5)
            assert loop.remove_reader(a)
            assert not loop.remove_reader(a)
            a.close()
            b.close()
        assert len(set(numbers)) == 1

    run(main())


def test_used_as_a_transport_afterwards(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.sock_recv(a, 10))
        await until_waiting()
        b.send(b"first")
        assert await task == b"first"
        reader, writer = await asyncio.open_unix_connection(sock=a)
        b.send(b"second")
        assert await reader.readexactly(6) == b"second"
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(a, 10)
        writer.close()
        await writer.wait_closed()

    run(main())


def test_accept_and_connect(run):
    async def main():
        loop = asyncio.get_running_loop()
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.socket() as client,
        ):
            listener.setblocking(False)
            client.setblocking(False)
            accepting = loop.create_task(loop.sock_accept(listener))
            await until_waiting()
            await loop.sock_connect(client, listener.getsockname())
            connection, address = await accepting
            with connection:
                assert address == client.getsockname()
                assert connection.gettimeout() == 0
                assert connection.family == socket.AF_INET
                await loop.sock_sendall(client, b"hi")
                assert await loop.sock_recv(connection, 10) == b"hi"

    run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams(run, host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    async def main():
        loop = asyncio.get_running_loop()
        with (
            socket.socket(family, socket.SOCK_DGRAM) as one,
            socket.socket(family, socket.SOCK_DGRAM) as two,
        ):
            for end in (one, two):
                end.setblocking(False)
                end.bind((host, 0))
            waiting = loop.create_task(loop.sock_recvfrom(two, 100))
            await until_waiting()
            assert await loop.sock_sendto(one, b"hello", two.getsockname()) == 5
            assert await waiting == (b"hello", one.getsockname())
            await loop.sock_sendto(one, b"", two.getsockname())
            assert await loop.sock_recvfrom(two, 100) == (b"", one.getsockname())
            await loop.sock_sendto(one, b"cut short", two.getsockname())
            buffer = bytearray(10)
            assert await loop.sock_recvfrom_into(two, buffer, 3) == (3, one.getsockname())
            assert buffer == b"cut" + bytes(7)

    run(main())


def test_errors(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        closed = socket.socket()
        closed.setblocking(False)
        closed.close()
        for make in (
            lambda: loop.sock_recv(closed, 10),
            lambda: loop.sock_recv(a, -1),
            lambda: loop.sock_recv(a, "ten"),
            lambda: loop.sock_recv_into(a, b"readonly"),
            lambda: loop.sock_recv_into(a, 5),
            lambda: loop.sock_sendall(a, "text"),
            lambda: loop.sock_sendall(closed, b"data"),
            lambda: loop.sock_sendto(a, b"data", 5),
            lambda: loop.sock_accept(a),
        ):
            with pytest.raises((OSError, TypeError, ValueError)) as raised:
                await make()
            seen.append((type(raised.value).__name__, str(raised.value)))
        return seen

    import ferroloop

    expected = asyncio.run(main())
    assert run(main()) == expected
    assert ferroloop.run(main()) == expected


@pytest.mark.mode("debug")
def test_blocking_sockets_are_refused_in_debug_mode(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            for operation in (
                lambda: loop.sock_recv(sock, 1),
                lambda: loop.sock_sendall(sock, b"x"),
                lambda: loop.sock_accept(sock),
            ):
                with pytest.raises(ValueError, match="the socket must be non-blocking"):
                    await operation()

    run(main())


def test_the_peer_is_gone(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        sending = loop.create_task(loop.sock_sendall(a, bytes(10_000_000)))
        await until_waiting()
        assert not sending.done()
        b.close()
        with pytest.raises(OSError) as raised:
            await sending
        assert raised.value.errno in (errno.EPIPE, errno.ECONNRESET)
        with contextlib.suppress(ConnectionError):
            await loop.sock_recv(a, 10)
        assert not loop.remove_writer(a)

    run(main())


def listening():
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)
    listener.setblocking(False)
    return listener


async def cancelled_after(turns, call, sock):
    """Cancel a call before, while or after it starts to wait; nothing stays watched."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not loop.remove_reader(sock)
    assert not loop.remove_writer(sock)


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize(
    "name",
    ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_accept"],
)
def test_a_cancelled_reading_call_leaves_nothing(run, name, turns):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        a.setblocking(False)
        listener = listening()
        buffer = bytearray(10)
        if name == "sock_accept":
            await cancelled_after(turns, loop.sock_accept(listener), listener)
            with socket.create_connection(listener.getsockname()) as client:
                connection, address = await loop.sock_accept(listener)
                assert address == client.getsockname()
                connection.close()
        else:
            call, argument = getattr(loop, name), buffer if name.endswith("into") else 10
            await cancelled_after(turns, call(a, argument), a)
            b.send(b"data")
            result = await call(a, argument)
            result = result[0] if isinstance(result, tuple) else result
            assert result == (4 if argument is buffer else b"data")
            assert argument != buffer or buffer[:4] == b"data"
        for each in (a, b, listener):
            each.close()

    run(main())


def fill(send):
    """Send until the socket's buffer is full; return the number of sends."""
    count = 0
    with pytest.raises(BlockingIOError):
        while True:
            send()
            count += 1
    return count


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("name", ["sock_sendall", "sock_sendto", "sock_connect"])
def test_a_cancelled_writing_call_leaves_nothing(run, name, turns):
    async def main():
        loop = asyncio.get_running_loop()
        used = []
        if name == "sock_connect":
            # The backlog is full: connecting waits until a connection is accepted.
            used.append(listening())
            address = used[0].getsockname()
            for _ in range(4):
                used.append(socket.socket())
                used[-1].setblocking(False)
                used[-1].connect_ex(address)
            sock = socket.socket()
            sock.setblocking(False)
            await cancelled_after(turns, loop.sock_connect(sock, address), sock)
        elif name == "sock_sendall":
            sock, peer = socket.socketpair()
            used.append(peer)
            sock.setblocking(False)
            fill(lambda: sock.send(bytes(1000)))
            await cancelled_after(turns, loop.sock_sendall(sock, bytes(1000)), sock)
        else:
            sock, peer = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
            used.append(peer)
            peer.bind("")
            address = peer.getsockname()
            sock.setblocking(False)
            peer.setblocking(False)
            sent = fill(lambda: sock.sendto(bytes(1000), address))
            await cancelled_after(turns, loop.sock_sendto(sock, bytes(1000), address), sock)
            assert fill(lambda: peer.recv(2000)) == sent
        for each in (sock, *used):
            each.close()

    run(main())
