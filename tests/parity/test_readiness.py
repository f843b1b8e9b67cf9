"""add_reader, add_writer, remove_reader, remove_writer on real descriptors."""

import asyncio
import os
import socket
import threading

import pytest


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


def turns(loop, count=1):
    for _ in range(count):
        loop.call_soon(loop.stop)
        loop.run_forever()


def test_reader_is_called_with_its_arguments(loop, pair):
    left, right = pair
    seen = []
    loop.add_reader(left, lambda *args: seen.append(args), 1, "two")
    turns(loop)
    assert seen == []
    right.send(b"x")
    turns(loop)
    assert seen == [(1, "two")]
    assert loop.remove_reader(left) is True


def test_reader_is_level_triggered(loop, pair):
    left, right = pair
    seen = []
    right.send(b"abc")
    loop.add_reader(left, lambda: seen.append(left.recv(1)))
    turns(loop, 5)
    assert seen == [b"a", b"b", b"c"]
    right.send(b"d")
    turns(loop, 2)
    assert seen == [b"a", b"b", b"c", b"d"]
    loop.remove_reader(left)


def test_writer_is_level_triggered(loop, pair):
    left, _ = pair
    seen = []
    loop.add_writer(left, seen.append, 1)
    turns(loop, 3)
    assert seen == [1, 1, 1]
    assert loop.remove_writer(left) is True
    turns(loop, 3)
    assert seen == [1, 1, 1]


def test_reader_and_writer_on_one_socket(loop, pair):
    left, right = pair
    seen = []
    right.send(b"x")
    loop.add_reader(left, seen.append, "r")
    loop.add_writer(left, seen.append, "w")
    turns(loop)
    assert sorted(seen) == ["r", "w"]
    loop.remove_reader(left)
    turns(loop)
    assert sorted(seen) == ["r", "w", "w"]
    loop.add_reader(left, seen.append, "r")
    loop.remove_writer(left)
    turns(loop)
    assert sorted(seen) == ["r", "r", "w", "w"]
    loop.remove_reader(left)


def test_adding_again_replaces(loop, pair):
    left, right = pair
    seen = []
    right.send(b"x")
    loop.add_reader(left, seen.append, "first")
    loop.add_reader(left, seen.append, "second")
    turns(loop)
    assert seen == ["second"]
    loop.remove_reader(left)


def test_removing_unregistered_descriptors(loop, pair):
    left, _ = pair
    assert loop.remove_reader(left) is False
    assert loop.remove_writer(left) is False
    loop.add_reader(left, print)
    assert loop.remove_writer(left) is False
    assert loop.remove_reader(left) is True
    assert loop.remove_reader(left) is False
    assert loop.remove_reader(98765) is False


def test_descriptors_and_objects_are_equivalent(loop, pair):
    left, right = pair

    class Wrapper:
        def fileno(self):
            return left.fileno()

    seen = []
    right.send(b"x")
    loop.add_reader(left.fileno(), seen.append, 1)
    turns(loop)
    assert seen == [1]
    assert loop.remove_reader(Wrapper()) is True
    loop.add_reader(Wrapper(), seen.append, 2)
    turns(loop)
    assert seen == [1, 2]
    assert loop.remove_reader(left) is True


def test_pipes(loop):
    read, write = os.pipe()
    try:
        seen = []
        loop.add_reader(read, lambda: seen.append(os.read(read, 10)))
        loop.add_writer(write, lambda: (os.write(write, b"data"), loop.remove_writer(write)))
        turns(loop, 3)
        assert seen == [b"data"]
        loop.remove_reader(read)
    finally:
        os.close(read)
        os.close(write)


def test_end_of_stream_is_readable(loop, pair):
    left, right = pair
    seen = []
    loop.add_reader(left, lambda: seen.append(left.recv(1)))
    right.close()
    turns(loop, 2)
    assert seen == [b"", b""]
    loop.remove_reader(left)


def test_pipe_without_reader_wakes_the_writer(loop):
    read, write = os.pipe()
    try:
        seen = []
        os.set_blocking(write, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(write, b"x" * 65536)
        loop.add_writer(write, seen.append, 1)
        turns(loop)
        assert seen == []
        os.close(read)
        read = -1
        turns(loop)
        assert seen == [1]
        loop.remove_writer(write)
    finally:
        for fd in (read, write):
            if fd >= 0:
                os.close(fd)


def test_callback_may_remove_itself_and_others(loop):
    pairs = [socket.socketpair() for _ in range(4)]
    seen = []

    def ready(number):
        seen.append(number)
        for left, _ in pairs:
            loop.remove_reader(left)

    for number, (left, right) in enumerate(pairs):
        right.send(b"x")
        loop.add_reader(left, ready, number)
    turns(loop, 2)
    assert len(seen) == 1
    for left, right in pairs:
        left.close()
        right.close()


def test_descriptor_number_reused(loop):
    """An event of a closed descriptor never reaches the next descriptor with the same number."""
    seen = []
    left, right = socket.socketpair()
    number = left.fileno()
    right.send(b"x")
    loop.add_reader(left, seen.append, "old")
    loop.remove_reader(left)
    left.close()
    again, other = socket.socketpair()
    if again.fileno() == number:
        loop.add_reader(again, seen.append, "new")
        turns(loop, 2)
        assert seen == []
        other.send(b"y")
        turns(loop)
        assert seen == ["new"]
        loop.remove_reader(again)
    for sock in (right, again, other):
        sock.close()


@pytest.mark.parametrize("bad", [-1, "text", None, 1.5, object()])
@pytest.mark.parametrize("method", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
def test_bad_descriptors(loop, method, bad):
    with pytest.raises(ValueError) as caught:
        getattr(loop, method)(bad, *[print] * method.startswith("add"))
    expected = f"Invalid file descriptor: {bad}" if bad == -1 else f"Invalid file object: {bad!r}"
    assert str(caught.value) == expected


def test_closed_socket(loop):
    left, right = socket.socketpair()
    left.close()
    right.close()
    with pytest.raises(ValueError, match="Invalid file"):
        loop.add_reader(left, print)


@pytest.mark.parametrize("direction", ["reader", "writer"])
def test_socket_closed_before_it_is_removed(loop, direction):
    """A file object is recognised by identity: anyio closes its UNIX sockets first."""
    add, remove = getattr(loop, f"add_{direction}"), getattr(loop, f"remove_{direction}")
    left, right = socket.socketpair()
    other = socket.socket()
    with right:
        add(left, print)
        left.close()
        other.close()
        with pytest.raises(ValueError, match=r"^Invalid file descriptor: -1$"):
            remove(other)
        assert remove(left) is True
        with pytest.raises(ValueError, match=r"^Invalid file descriptor: -1$"):
            remove(left)


def test_removing_a_closed_socket_keeps_the_next_owner_of_its_number(loop):
    left, right = socket.socketpair()
    loop.add_reader(left, print, "never")
    number = left.fileno()
    left.close()
    assert loop.remove_reader(left) is True
    left, again = socket.socketpair()
    with left, again, right:
        assert left.fileno() == number
        seen = []
        loop.add_reader(left, lambda: seen.append(left.recv(10)))
        again.send(b"data")
        turns(loop, 2)
        assert seen == [b"data"]
        loop.remove_reader(left)


def test_descriptor_that_is_not_open(loop):
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(OSError) as caught:
        loop.add_reader(read, print)
    assert caught.value.errno == 9
    with pytest.raises(OSError):
        loop.add_writer(write, print)
    assert loop.remove_reader(read) is False


def test_regular_files_are_refused(loop):
    with open(__file__) as file, pytest.raises(PermissionError):
        loop.add_reader(file, print)
    turns(loop)


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_closed_loop(loop, pair, method):
    loop.close()
    with pytest.raises(RuntimeError) as caught:
        getattr(loop, method)(pair[0], print)
    assert str(caught.value) == "Event loop is closed"
    assert loop.remove_reader(pair[0]) is False


def test_exception_in_a_reader(loop, pair):
    left, right = pair
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))

    def fail():
        left.recv(10)
        raise ZeroDivisionError

    right.send(b"x")
    loop.add_reader(left, fail)
    turns(loop, 2)
    (context,) = reported
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["message"].startswith("Exception in callback ")
    loop.remove_reader(left)
    loop.set_exception_handler(None)
    reported.clear()
    del context


def test_reader_stays_after_an_exit(loop, pair):
    left, right = pair

    def leave():
        left.recv(1)
        raise SystemExit

    right.send(b"xy")
    loop.add_reader(left, leave)
    for _ in range(2):
        with pytest.raises(SystemExit):
            loop.run_forever()
    loop.remove_reader(left)


def test_many_descriptors(loop):
    pairs = [socket.socketpair() for _ in range(150)]
    seen = set()
    for number, (left, _) in enumerate(pairs):
        loop.add_reader(left, lambda n=number, s=left: (seen.add(n), s.recv(1)))
    for _, right in pairs:
        right.send(b"x")
    turns(loop, 4)
    assert seen == set(range(150))
    for left, right in pairs:
        assert loop.remove_reader(left)
        left.close()
        right.close()


def test_wakes_an_idle_loop(loop, pair):
    left, right = pair
    timer = threading.Timer(0.03, right.send, (b"x",))
    loop.add_reader(left, loop.stop)
    watchdog = loop.call_later(20, loop.stop)
    timer.start()
    before = loop.time()
    loop.run_forever()
    assert loop.time() - before < 10
    timer.join()
    watchdog.cancel()
    loop.remove_reader(left)


def test_refused_for_a_transports_socket(loop, pair):
    left, _ = pair

    async def main():
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
        for method in ("add_reader", "add_writer"):
            with pytest.raises(RuntimeError) as caught:
                getattr(loop, method)(left.fileno(), print)
            assert str(caught.value) == (
                f"File descriptor {left.fileno()} is used by transport {transport!r}"
            )
        for method in ("remove_reader", "remove_writer"):
            with pytest.raises(RuntimeError):
                getattr(loop, method)(left.fileno())
        transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
