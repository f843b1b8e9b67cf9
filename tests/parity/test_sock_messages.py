"""`loop.sock_sendmsg()`, `sock_recvmsg()`, `sock_recvmsg_into()`. asyncio has none of them: the
standard is the methods of blocking sockets."""

import array
import asyncio
import errno
import fcntl
import gc
import inspect
import os
import socket
import struct
import weakref

import pytest

from ..support.leaks import open_descriptors
from ..support.turns import until_waiting

pytestmark = pytest.mark.only("ferroloop")

INT = array.array("i").itemsize
IP_RECVTTL = getattr(socket, "IP_RECVTTL", 12)  # since Python 3.14


@pytest.fixture(params=["stream", "datagram"])
def pair(request):
    kind = {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM}[request.param]
    ends = socket.socketpair(socket.AF_UNIX, kind)
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


def passing(*descriptors):
    """Ancillary data that passes descriptors."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]


def passed(ancdata):
    """The descriptors in received ancillary data."""
    found = array.array("i")
    for level, kind, data in ancdata:
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        found.frombytes(data)
    return list(found)


def fill(sock):
    """Send until the socket accepts nothing."""
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(bytes(65_536) if sock.type == socket.SOCK_STREAM else b"x" * 1000)


def drain(sock):
    with pytest.raises(BlockingIOError):
        while True:
            sock.recv(1 << 20)


def test_data_from_and_into_several_buffers(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.sock_sendmsg(a, [b"one ", bytearray(b"two "), memoryview(b"three")]) == 13
        buffers = [bytearray(5), memoryview(bytearray(20))]
        result = await loop.sock_recvmsg_into(b, buffers)
        assert result == (13, [], result[2], None)
        assert bytes(buffers[0]) + bytes(buffers[1]) == b"one two three" + bytes(12)
        # Iterators serve too.
        assert await loop.sock_sendmsg(a, iter((b"ab", b"cd"))) == 4
        assert (await loop.sock_recvmsg(b, 100))[0] == b"abcd"
        assert await loop.sock_sendmsg(a, []) == 0

    run(main())


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "waiting"])
def test_results_are_those_of_the_socket(run, waits):
    """Truncated data, flags, ancillary data and addresses, on a socket with all of them."""

    def message(sender, address):
        ttl = (socket.IPPROTO_IP, socket.IP_TTL, struct.pack("i", 7))
        return sender.sendmsg((b"abc", b"def"), [ttl], 0, address)

    async def main():
        loop = asyncio.get_running_loop()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        ):
            for end in (sender, receiver):
                end.setblocking(False)
                end.bind(("127.0.0.1", 0))
            receiver.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
            address = receiver.getsockname()

            for arguments in ((100, 64), (4, 64), (100,), (100, 8), (100, 64, socket.MSG_PEEK)):
                message(sender, address)
                expected = receiver.recvmsg(*arguments)
                drain(receiver)
                if waits:
                    task = loop.create_task(loop.sock_recvmsg(receiver, *arguments))
                    await until_waiting()
                else:
                    task = loop.sock_recvmsg(receiver, *arguments)
                ttl = [(socket.IPPROTO_IP, socket.IP_TTL, struct.pack("i", 7))]
                sent = await loop.sock_sendmsg(sender, (b"abc", b"def"), ttl, 0, address)
                assert sent == 6
                got = await task
                assert got == expected
                assert got[3] == sender.getsockname()
                if arguments[2:]:
                    drain(receiver)

    run(main())


def test_a_message_that_waits(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        for number in range(50):
            buffer = bytearray(10)
            task = loop.create_task(loop.sock_recvmsg_into(b, iter([buffer])))
            await until_waiting()
            assert not task.done()
            a.send(b"%d" % number)
            length, ancdata, _, _ = await task
            assert (buffer[:length], ancdata) == (b"%d" % number, [])

    run(main())


def test_sending_waits_for_room(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        fill(a)
        read, write = os.pipe()
        task = loop.create_task(loop.sock_sendmsg(a, iter([b"la", b"st"]), iter(passing(write))))
        await until_waiting()
        assert not task.done()
        drain(b)
        assert await task == 4
        data, descriptors, _, _ = socket.recv_fds(b, 100, 1)
        assert data == b"last"
        os.write(descriptors[0], b"through")
        assert os.read(read, 100) == b"through"
        for descriptor in (read, write, *descriptors):
            os.close(descriptor)

    run(main())


def test_a_stream_sends_a_part(run):
    """As with the method of a non-blocking socket, the result is a count."""
    a, b = socket.socketpair()

    async def main():
        loop = asyncio.get_running_loop()
        a.setblocking(False)
        data = bytes(range(250)) * 40_000
        sent = await loop.sock_sendmsg(a, [data])
        assert 0 < sent < len(data)
        received = bytearray()
        while len(received) < sent:
            received += b.recv(sent)
        assert received == data[:sent]
        a.close()
        b.close()

    run(main())


def test_buffers_are_held_during_the_wait_only(run, pair):
    a, b = pair

    def is_held(array):
        try:
            array.append(0)
        except BufferError:
            return True
        del array[-1]
        return False

    async def main():
        loop = asyncio.get_running_loop()
        target = bytearray(10)
        call = loop.sock_recvmsg_into(b, [target])
        assert not is_held(target)
        task = loop.create_task(call)
        await until_waiting()
        assert is_held(target)
        a.send(b"x")
        await task
        assert not is_held(target)

        fill(a)
        data = bytearray(b"data")
        ancillary = bytearray(struct.pack("i", b.fileno()))
        for _ in range(2):
            items = [[socket.SOL_SOCKET, socket.SCM_RIGHTS, ancillary]]
            call = loop.sock_sendmsg(a, [data], items)
            assert not is_held(data)
            task = loop.create_task(call)
            await until_waiting()
            assert is_held(data)
            assert is_held(ancillary)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert not is_held(data)
            assert not is_held(ancillary)

    run(main())


@pytest.mark.parametrize("ancbufsize", [0, socket.CMSG_LEN(INT), socket.CMSG_SPACE(4 * INT)])
@pytest.mark.parametrize("into", [False, True], ids=["recvmsg", "recvmsg_into"])
def test_no_descriptor_is_lost_by_cancelling(run, pair, into, ancbufsize):
    """Cancelled at any point, a call either returns the message or leaves it in the socket; and a
    message that does not fit leaves no descriptor open."""
    a, b = pair

    async def receive():
        if not into:
            return await loop.sock_recvmsg(b, 10, ancbufsize)
        buffer = bytearray(10)
        length, *rest = await loop.sock_recvmsg_into(b, [buffer], ancbufsize)
        return bytes(buffer[:length]), *rest

    async def main():
        nonlocal loop
        loop = asyncio.get_running_loop()
        own = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
        before = open_descriptors()
        outcomes = set()
        for turns in range(8):
            task = loop.create_task(receive())
            for turn in range(8):
                if turn == turns:
                    task.cancel()
                if turn == 3:
                    a.sendmsg([b"data"], passing(*own))
                await asyncio.sleep(0)
            try:
                message = await task
                outcomes.add("received")
            except asyncio.CancelledError:
                assert open_descriptors() == before
                message = await asyncio.wait_for(receive(), 5)
                outcomes.add("left")
            data, ancdata, flags, _ = message
            assert data == b"data"
            found = passed(ancdata)
            assert bool(flags & socket.MSG_CTRUNC) == (len(found) < len(own))
            assert open_descriptors().keys() - before.keys() == set(found)
            for descriptor in found:
                os.close(descriptor)
        assert outcomes == {"received", "left"}
        for descriptor in own:
            os.close(descriptor)

    loop = None
    run(main())


@pytest.mark.parametrize("end", ["close", "throw", "drop"])
@pytest.mark.parametrize("arrived", ["before", "while waiting", "woken"])
def test_a_call_driven_by_hand_leaves_the_message(run, pair, end, arrived):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        call = loop.sock_recvmsg(b, 10, 100)
        if arrived != "before":
            future = call.send(None)
            assert asyncio.isfuture(future)
        before = open_descriptors()
        a.sendmsg([b"data"], passing(a.fileno()))
        if arrived == "woken":
            while not future.done():
                await asyncio.sleep(0)
        if end == "close" or arrived == "before":
            call.close()
        elif end == "throw":
            with pytest.raises(KeyError):
                call.throw(KeyError("mine"))
        del call
        gc.collect()
        assert open_descriptors() == before
        data, descriptors, _, _ = socket.recv_fds(b, 10, 1)
        assert data == b"data"
        os.close(descriptors[0])
        if arrived != "before":
            future.cancel()

    run(main())


def test_a_cancelled_send_has_sent_nothing(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        outcomes = set()
        for turns in range(8):
            fill(a)
            task = loop.create_task(loop.sock_sendmsg(a, [b"mark"], passing(a.fileno())))
            for turn in range(8):
                if turn == turns:
                    task.cancel()
                if turn == 3:
                    drain(b)
                await asyncio.sleep(0)
            sent = not task.cancelled()
            outcomes.add(sent)
            if sent:
                assert await task == 4
                data, descriptors, _, _ = socket.recv_fds(b, 10, 1)
                assert data == b"mark"
                os.close(descriptors[0])
            with pytest.raises(BlockingIOError):
                b.recv(10)
            assert not loop.remove_writer(a)
        assert outcomes == {True, False}

    run(main())


def test_another_reader_is_faster(run, pair):
    """A call that wakes up without data waits again, and is forgotten when it ends."""
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        for make in (lambda: loop.sock_recvmsg(b, 10), lambda: loop.sock_recv(b, 10)):
            call = make()
            alive = weakref.ref(call)
            task = loop.create_task(call)
            del call
            await until_waiting()
            for _ in range(5):
                a.send(b"other")
                loop.call_soon(b.recv, 10)
                await until_waiting()
                assert not task.done()
            a.send(b"mine")
            got = await task
            assert b"mine" in (got, got[0])
            del task
            gc.collect()
            assert alive() is None

    run(main())


def test_descriptors_are_passed_and_inherit_nothing(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        with open(__file__, "rb") as file:
            await loop.sock_sendmsg(a, [b"!"], passing(file.fileno()))
        flags = socket.MSG_CMSG_CLOEXEC
        data, ancdata, flags, _ = await loop.sock_recvmsg(b, 1, socket.CMSG_SPACE(INT), flags)
        (descriptor,) = passed(ancdata)
        assert data == b"!"
        assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with open(descriptor, "rb") as file:
            assert file.readline().startswith(b'"""`loop.sock_sendmsg()`')

    run(main())


class Overriding(socket.socket):
    def sendmsg(self, buffers, *arguments):
        self.given = buffers
        return super().sendmsg([b"".join(buffers).upper()], *arguments)

    def recvmsg(self, *arguments):
        data, *rest = super().recvmsg(*arguments)
        return data + b"!", *rest

    def recvmsg_into(self, *arguments):
        return "anything"


def test_overridden_methods_are_called(run, pair):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        with Overriding(fileno=os.dup(a.fileno())) as sock:
            sock.setblocking(False)
            buffers = [b"he", b"llo"]
            assert await loop.sock_sendmsg(sock, buffers) == 5
            assert sock.given is buffers
            assert b.recv(10) == b"HELLO"
            task = loop.create_task(loop.sock_recvmsg(sock, 10))
            await until_waiting()
            b.send(b"back")
            assert (await task)[0] == b"back!"
            assert await loop.sock_recvmsg_into(sock, []) == "anything"

    run(main())


def test_errors_are_those_of_the_socket(run, pair):
    a, _ = pair

    def broken():
        yield b"part"
        raise KeyError("broken")

    async def main():
        loop = asyncio.get_running_loop()
        closed = socket.socket()
        closed.setblocking(False)
        closed.close()
        for sock, name, arguments in (
            (closed, "sendmsg", ([b"x"],)),
            (closed, "recvmsg", (10,)),
            (closed, "recvmsg_into", ([bytearray(1)],)),
            (a, "sendmsg", (5,)),
            (a, "sendmsg", (["text"],)),
            (a, "sendmsg", ([b"x"], None)),
            (a, "sendmsg", ([b"x"], 5)),
            (a, "sendmsg", ([b"x"], [b"x"])),
            (a, "sendmsg", ([b"x"], [(1, 2)])),
            (a, "sendmsg", ([b"x"], [], "flags")),
            (a, "sendmsg", ([b"x"], [], 0, 5)),
            (a, "sendmsg", ([b"x"], passing(-1))),
            (a, "sendmsg", ([b"x"] * 5000,)),
            (a, "recvmsg", ("ten",)),
            (a, "recvmsg", (-1,)),
            (a, "recvmsg", (1, -1)),
            (a, "recvmsg", (1, 0, None)),
            (a, "recvmsg_into", (b"x",)),
            (a, "recvmsg_into", ([b"constant"],)),
            (a, "recvmsg_into", ([], 1 << 40)),
        ):
            with pytest.raises((OSError, TypeError, ValueError, OverflowError)) as expected:
                getattr(sock, name)(*arguments)
            with pytest.raises(type(expected.value)) as raised:
                await getattr(loop, f"sock_{name}")(sock, *arguments)
            assert str(raised.value) == str(expected.value), (name, arguments)
        with pytest.raises(KeyError, match="broken"):
            await loop.sock_sendmsg(a, broken())
        with pytest.raises(TypeError, match=r"sock must be a socket\.socket, got int"):
            loop.sock_sendmsg(a.fileno(), [b"x"])

    run(main())


def test_sockets_that_are_refused(run, pair, flavour):
    import ssl

    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context()
        with socket.socket() as plain:
            tls = context.wrap_socket(plain, server_hostname="x", do_handshake_on_connect=False)
        with tls, pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
            await loop.sock_recvmsg(tls, 10)
        if flavour.debug:
            b.setblocking(True)
            for call in (
                loop.sock_sendmsg(b, [b"x"]),
                loop.sock_recvmsg(b, 1),
                loop.sock_recvmsg_into(b, [bytearray(1)]),
            ):
                with pytest.raises(ValueError, match="the socket must be non-blocking"):
                    await call
        if a.type == socket.SOCK_STREAM:
            reader, writer = await asyncio.open_unix_connection(sock=a)
            data = bytearray(1)
            call = loop.sock_recvmsg_into(a, [data])
            with pytest.raises(RuntimeError, match="is used by transport"):
                await call
            data += b"no longer held"
            writer.close()
            await writer.wait_closed()

    run(main())


@pytest.mark.parametrize("name", ["sendmsg", "recvmsg", "recvmsg_into"])
def test_a_socket_closed_under_a_waiting_call(run, pair, name):
    a, _ = pair

    async def main():
        loop = asyncio.get_running_loop()
        if name == "sendmsg":
            fill(a)
        argument = {"sendmsg": [b"x" * 100], "recvmsg": 10, "recvmsg_into": [bytearray(1)]}[name]
        task = loop.create_task(getattr(loop, f"sock_{name}")(a, argument))
        await until_waiting()
        assert not task.done()
        a.close()
        with pytest.raises(OSError) as raised:
            await task
        assert raised.value.errno == errno.EBADF

    run(main())


def test_they_are_coroutines_with_signatures(run, pair, flavour):
    a, b = pair

    async def main():
        loop = asyncio.get_running_loop()
        operation = loop.sock_recvmsg(b, 10)
        assert asyncio.iscoroutine(operation)
        assert operation.__qualname__ == "EventLoop.sock_recvmsg"
        a.send(b"x")
        operation.close()  # nothing happens before it is awaited
        received = loop.metrics().bytes_received
        assert (await loop.sock_recvmsg(b, 10))[0] == b"x"
        assert loop.metrics().bytes_received == received + 1
        sent = loop.metrics().bytes_sent
        await loop.sock_sendmsg(a, [b"four"])
        assert loop.metrics().bytes_sent == sent + 4
        with pytest.warns(RuntimeWarning, match=r"'EventLoop\.sock_sendmsg' was never awaited"):
            loop.sock_sendmsg(a, [b"x"])
        return [
            str(inspect.signature(getattr(loop, f"sock_{name}")))
            for name in ("sendmsg", "recvmsg", "recvmsg_into")
        ]

    assert run(main()) == [
        "(sock, buffers, ancdata=(), flags=0, address=None)",
        "(sock, bufsize, ancbufsize=0, flags=0)",
        "(sock, buffers, ancbufsize=0, flags=0)",
    ]
