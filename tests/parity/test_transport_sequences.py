"""Random sequences of operations on a transport, on asyncio and on ferroloop.

Protocol, caller and peer must observe the same on both. The peer is the other end of a socket pair,
driven from the same thread, so that nothing depends on timing.
"""

import asyncio
import socket

import ferroloop
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..support.turns import turns_with_polls

TURNS = 8
PARTS = ("protocol", "answers", "peer", "reports", "log")

sizes = st.sampled_from([0, 1, 100, 3000, 70_000, 400_000])
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), sizes),
    st.tuples(st.just("write_twice"), sizes),
    st.tuples(st.just("write_mutable"), sizes),
    st.tuples(st.just("writelines"), sizes),
    st.tuples(st.just("peer_send"), sizes),
    st.tuples(st.just("peer_read"), sizes),
    st.tuples(st.just("limits"), sizes),
    st.tuples(
        st.sampled_from(
            [
                "pause_reading",
                "resume_reading",
                "write_eof",
                "close",
                "abort",
                "peer_shutdown",
                "peer_close",
                "set_protocol",
                "look",
            ]
        ),
        st.just(0),
    ),
)


class Seen(asyncio.Protocol):
    """Records its callbacks; can perform an action in a callback."""

    def __init__(self, name, log, keep_open):
        self.name, self.log, self.keep_open = name, log, keep_open

    def add(self, *entry):
        entry = (self.name, *entry)
        # How data is split into pieces depends on the system.
        if entry[1] == "data" and self.log and self.log[-1][:2] == entry[:2]:
            self.log[-1] = (*entry[:2], self.log[-1][2] + entry[2])
        else:
            self.log.append(entry)

    def connection_made(self, transport):
        self.add("made")

    def data_received(self, data):
        self.add("data", data)

    def eof_received(self):
        self.add("eof")
        return self.keep_open

    def pause_writing(self):
        self.add("pause")

    def resume_writing(self):
        self.add("resume")

    def connection_lost(self, error):
        self.add("lost", type(error).__name__)


class SeenBuffered(Seen, asyncio.BufferedProtocol):
    """The same with its own buffer."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.buffer = bytearray(5000)

    def get_buffer(self, hint):
        return self.buffer

    def buffer_updated(self, length):
        self.add("data", bytes(self.buffer[:length]))


async def play(operations, keep_open):
    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair()
    for end in (ours, peer):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    log, answers, at_peer = [], [], bytearray()
    protocols = [Seen("first", log, keep_open), SeenBuffered("second", log, keep_open)]
    transport, _ = await loop.create_unix_connection(lambda: protocols[0], sock=ours)

    def peer_read(limit):
        read = 0
        while read < limit and peer.fileno() >= 0:
            try:
                data = peer.recv(min(65536, limit - read))
            except OSError:
                break
            if not data:
                break
            read += len(data)
            at_peer.extend(data)

    written, loses_some = bytearray(), False
    for counter, (operation, size) in enumerate(operations, 1):
        data = bytes([counter % 256]) * size
        if "write" in operation and operation != "write_eof":
            written += data[:100] if operation == "writelines" else data
            written += data[: size // 2] if operation == "write_twice" else b""
        # How much the socket accepts depends on the number of system calls that filled it.
        unread = len(written) - len(at_peer)
        loses_some |= operation in ("abort", "peer_close") and unread >= 50_000
        try:
            if operation == "write":
                transport.write(data)
            elif operation == "write_twice":
                transport.write(data)
                transport.write(data[: size // 2])
            elif operation == "write_mutable":
                mutable = bytearray(data)
                transport.write(mutable)
            elif operation == "writelines":
                # Known bugs of early asyncio releases are avoided: writelines() raised TypeError
                # after close(), did not pause the protocol, and kept an empty last chunk.
                size, data = min(size, 100), data[:100]
                idle = transport.get_write_buffer_size() == 0
                below = size <= transport.get_write_buffer_limits()[1]
                if size and idle and below and not transport.is_closing():
                    transport.writelines([data[: size // 3], b"", memoryview(data)[size // 3 :]])
            elif operation == "peer_send":
                answers.append(peer.send(data) if peer.fileno() >= 0 else None)
            elif operation == "peer_read":
                peer_read(size)
            elif operation == "limits":
                transport.set_write_buffer_limits(high=size)
            elif operation == "peer_shutdown":
                peer.shutdown(socket.SHUT_WR)
            elif operation == "peer_close":
                peer.close()
            elif operation == "set_protocol":
                transport.set_protocol(protocols[1])
            elif operation == "look":
                answers.append(transport.is_reading())
                answers.append(transport.get_write_buffer_limits())
            else:
                getattr(transport, operation)()
        except (OSError, RuntimeError) as error:
            answers.append((operation, type(error).__name__, str(error)))
        # A write that is held until its callback returns notices later that the peer is gone.
        if peer.fileno() >= 0 or "write" not in operation:
            answers.append(transport.is_closing())
        certain = not 50_000 < len(written) - len(at_peer) < 150_000
        answers.append(transport.get_write_buffer_size() > 0 if certain else None)
        await turns_with_polls(TURNS)
        answers.append(transport.is_closing())
    # Run to the end: everything written arrives, and the connection is lost once.
    transport.close()
    for _ in range(400):
        peer_read(1 << 20)
        await asyncio.sleep(0)
        if any(entry[1] == "lost" for entry in log):
            break
    peer_read(1 << 20)
    peer.close()
    ours.close()
    assert [entry[1] for entry in log].count("lost") == 1
    if loses_some:
        assert is_subsequence(at_peer, written)
        at_peer.clear()
    return log, answers, bytes(at_peer)


def is_subsequence(received, written):
    """Whether only written data was received, in that order; each operation has its own value, and
    what a closed transport accepts is dropped."""
    values = bytes(dict.fromkeys(written))
    counts = [(received.count(value), written.count(value)) for value in values]
    in_order = bytes(dict.fromkeys(received))
    expected = bytes(value for value in values if value in in_order)
    return (
        in_order == expected
        and bytes(sorted(received, key=values.index)) == received
        and all(here <= there for here, there in counts)
    )


def on(factory, operations, keep_open):
    with asyncio.Runner(loop_factory=factory) as runner:
        loop = runner.get_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context["message"]))
        return (*runner.run(play(operations, keep_open)), reported)


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(operations=st.lists(OPERATIONS, max_size=14), keep_open=st.booleans())
def check(log, operations, keep_open):
    found = (*on(ferroloop.new_event_loop, operations, keep_open), log.messages())
    try:
        expected = (*on(asyncio.SelectorEventLoop, operations, keep_open), log.messages())
    except AttributeError as error:
        # asyncio's transport accepts a write after close() has finished, when it has no socket.
        if "'NoneType' object has no attribute" not in str(error):
            raise
        log.messages()
        return
    for what, theirs, ours in zip(PARTS, expected, found, strict=True):
        assert ours == theirs, what


@pytest.mark.timeout(180)
def test_transports_behave_the_same(log):
    check(log)
