"""Random sequences in which protocols act inside their callbacks, on asyncio and on ferroloop.

Protocols write, close, abort and pause inside callbacks, on several transports of one loop that
reuse each other's descriptor numbers. After every step the poller must have registered exactly what
the transports want. See support/reactions.py.
"""

import asyncio
import socket
from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ..support.reactions import Link, Reacting
from ..support.registrations import Registrations, assert_sleeps
from ..support.sequences import asyncio_is_reference, compare, known_defect, on

small = [
    ("write", 100),
    ("write", 3000),
    ("write_twice", 100),
    ("writelines", 100),
    ("pump", 40_000),
]
large = [("write", 400_000), ("write_twice", 70_000), ("pump", 400_000), ("pump", 2_000_000)]
others = [
    *[("write", 0), ("limits", 0), ("limits", 3000), ("limits", 400_000), ("set_protocol", 0)],
    *[("pause_reading", 0), ("resume_reading", 0), ("write_eof", 0), ("close", 0), ("abort", 0)],
]
# Together no more than fits into one read, whose size differs between the loops.
peers = [
    *[("peer_send", 1), ("peer_send", 3000), ("peer_send", 4000), ("peer_read", 3000)],
    *[("peer_read", 70_000), ("peer_read", 400_000), ("peer_shutdown", 0), ("peer_close", 0)],
]

# Actions that fill and drain a transport are more likely than all others.
actions = st.one_of(*map(st.sampled_from, [small, small, large, others]))
several = st.lists(st.lists(actions, min_size=1, max_size=4), min_size=1, max_size=3)
reactions = st.fixed_dictionaries(
    {"resume": several},
    optional=dict.fromkeys(("made", "data", "eof", "pause", "lost"), several),
)
whats = st.one_of(
    *map(st.sampled_from, [small, large, large, others, peers, [("peer_drain", 0)] * 2, ["open"]])
)
steps = st.tuples(st.integers(0, 2), whats)
plans = st.tuples(reactions, st.booleans())


async def open_pair(reactions, keep_open):
    """A link over a socket pair, whose buffers always have the same size."""
    ours, peer = socket.socketpair()
    for end in (ours, peer):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    link = Link(peer, reactions, keep_open)
    link.fd = ours.fileno()
    await asyncio.get_running_loop().create_unix_connection(lambda: Reacting(link), sock=ours)
    return link


async def open_connection(reactions, keep_open):
    """A link over TCP, whose transport connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = Link(None, reactions, keep_open)
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: Reacting(link), *server.getsockname()
        )
        link.peer, _ = server.accept()
    link.peer.setblocking(False)
    link.fd = transport.get_extra_info("socket").fileno()
    return link


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    first=plans,
    plans=st.lists(plans, max_size=3),
    steps=st.lists(steps, min_size=1, max_size=14),
    patiently=st.booleans(),
)
def check(counts, log, first, plans, steps, patiently):
    compare(counts, log, open_pair, first, plans, steps, patiently)


@pytest.mark.timeout(180)
def test_callbacks_may_act(log):
    counts = Counter()
    check(counts, log)
    assert counts["compared"] > counts["runs"] / 4


@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    first=plans,
    plans=st.lists(plans, max_size=3),
    steps=st.lists(steps, min_size=1, max_size=10),
    patiently=st.booleans(),
)
def check_over_tcp(log, factory, first, plans, steps, patiently):
    assume(factory is not asyncio.SelectorEventLoop or asyncio_is_reference(first, plans))
    seen, faults = on(factory, log, open_connection, first, plans, steps, patiently, 0.001)
    assert not faults or (factory is asyncio.SelectorEventLoop and known_defect(seen, faults))


@pytest.mark.mode("plain")
@pytest.mark.timeout(180)
def test_callbacks_may_act_over_tcp(flavour, log):
    """New connections reuse the descriptor numbers of closed ones."""
    factory = asyncio.SelectorEventLoop if flavour.is_asyncio else flavour.new_loop
    check_over_tcp(log, factory)


class Producer(asyncio.Protocol):
    """Writes pieces until it is paused, and continues when it is resumed."""

    PIECE = 20_000

    def __init__(self, pieces):
        self.left, self.paused = pieces, False
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def produce(self):
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(b"x" * self.PIECE)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.produce()

    def connection_lost(self, error):
        self.lost.set_result(error)


class Pair:
    """A producer connected over TCP, and its peer's socket."""

    PIECES = 300
    SIZE = PIECES * Producer.PIECE

    def __init__(self, server):
        self.server = server

    async def __aenter__(self):
        self.loop = asyncio.get_running_loop()
        self.transport, self.producer = await self.loop.create_connection(
            lambda: Producer(self.PIECES), *self.server.getsockname()
        )
        self.peer, _ = self.server.accept()
        self.peer.setblocking(False)
        self.fd = self.transport.get_extra_info("socket").fileno()
        self.producer.produce()
        return self

    async def receive(self, size):
        """Receive up to `size` bytes of what the producer writes; fewer at the end."""
        received = 0
        while received < size and (data := await self.loop.sock_recv(self.peer, 1 << 20)):
            received += len(data)
        return received

    async def __aexit__(self, *error):
        self.transport.abort()
        await self.producer.lost
        self.peer.close()


async def connects(server):
    """Whether connections can be made, with transports and sockets, and carry data both ways."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*server.getsockname())
        peer, _ = server.accept()
        with peer, socket.socket() as client:
            peer.setblocking(False)
            client.setblocking(False)
            writer.write(b"to the peer")
            assert await loop.sock_recv(peer, 100) == b"to the peer"
            await loop.sock_sendall(peer, b"from the peer")
            assert await reader.readexactly(13) == b"from the peer"
            await loop.sock_connect(client, server.getsockname())
            server.accept()[0].close()
            assert await loop.sock_recv(client, 100) == b""
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_the_loop_sleeps_when_a_producer_is_done(run, server):
    async def main():
        registrations = await Registrations.of_running_loop()
        async with Pair(server) as pair:
            assert await pair.receive(pair.SIZE) == pair.SIZE
            await asyncio.sleep(0.01)
            assert registrations()[pair.fd] == {"read"}
            await assert_sleeps()

    run(main())


# From 3.12 on asyncio stops writing after close() if resume_writing() is called with an empty
# buffer and writes more than the socket accepts.
@pytest.mark.only("ferroloop")
def test_close_while_a_producer_keeps_writing(run, server):
    async def main():
        async with Pair(server) as pair:
            pair.transport.close()
            assert await pair.receive(1 << 30) == pair.SIZE
            assert await pair.producer.lost is None
            await assert_sleeps()
        await connects(server)

    run(main())


HOWS = ["abort", pytest.param("close", marks=pytest.mark.only("ferroloop"))]


@pytest.mark.parametrize("received", [0, 100_000, Pair.SIZE])
@pytest.mark.parametrize("how", HOWS)
def test_descriptor_numbers_of_closed_connections_can_be_reused(run, server, how, received):
    async def main():
        registrations = await Registrations.of_running_loop()
        async with Pair(server) as pair:
            await pair.receive(received)
            getattr(pair.transport, how)()
            await asyncio.sleep(0)
            if how == "close":
                await pair.receive(1 << 30)
            await pair.producer.lost
            await connects(server)
        assert registrations() == {}
        for _ in range(3):
            await connects(server)
        await assert_sleeps()

    run(main())


# If resume_writing() ends a transport, asyncio's behaviour depends on whether data is left to send:
# if not, it may call connection_lost() twice.
ENDS = [
    pytest.param(how, callback, marks=pytest.mark.only("ferroloop"))
    if callback == "resume_writing" and how != "write_eof"
    else (how, callback)
    for how in ("abort", "close", "write_eof")
    for callback in ("resume_writing", "pause_writing", "data_received")
]


@pytest.mark.parametrize(("how", "callback"), ENDS)
def test_ending_inside_a_callback(run, server, how, callback):
    """After writing there: data written before close() and write_eof() arrives."""

    class Ending(Producer):
        ended = False

        def end(self):
            if not self.ended:
                self.ended = True
                self.transport.write(b"y" * 100)
                self.transport.write(b"z" * 100)
                getattr(self.transport, how)()

    def call_end(self, *arguments):
        getattr(Producer, callback)(self, *arguments)
        self.end()

    setattr(Ending, callback, call_end)

    async def main():
        loop = asyncio.get_running_loop()
        registrations = await Registrations.of_running_loop()
        transport, producer = await loop.create_connection(lambda: Ending(0), *server.getsockname())
        peer, _ = server.accept()
        with peer:
            peer.setblocking(False)
            if callback == "data_received":
                peer.send(b"a")
            transport.write(b"x" * 6_000_000)
            received = bytearray()
            while data := await loop.sock_recv(peer, 1 << 20):
                received += data
            if how != "abort":
                assert received == b"x" * 6_000_000 + b"y" * 100 + b"z" * 100
        transport.close()
        await producer.lost
        assert registrations() == {}
        await connects(server)
        await assert_sleeps()

    run(main())
