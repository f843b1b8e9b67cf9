"""Like test_transport_callbacks.py, for datagrams: UNIX datagrams to a full peer, and UDP.

Each datagram is one system call on both loops, so the loops can be compared byte by byte after
every step, together with the poller's registrations.
"""

import asyncio
import socket
from asyncio import selector_events
from collections import Counter

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ..support.reactions import Link
from ..support.registrations import Registrations, assert_sleeps
from ..support.sequences import compare

sends = [("write", 1), ("write", 100), ("write_twice", 1000), ("flood", 8), ("flood", 40)]
limits = [("limits", 0), ("limits", 1000), ("limits", 400_000)]
others = [("pause_reading", 0), ("resume_reading", 0), ("set_protocol", 0), *limits]
ends = [("close", 0), ("abort", 0)]
peers = [("peer_send", 1), ("peer_send", 1000), ("peer_read", 3000), ("peer_close", 0)]

actions = st.one_of(*map(st.sampled_from, [sends, sends, others, ends]))
several = st.lists(st.lists(actions, min_size=1, max_size=4), min_size=1, max_size=3)
callbacks = ["made", "data", "pause", "resume", "error", "lost"]
plans = st.tuples(
    st.fixed_dictionaries({}, optional=dict.fromkeys(callbacks, several)), st.booleans()
)
whats = st.one_of(
    *map(st.sampled_from, [sends, sends, others, ends, peers, [("peer_drain", 0)], ["open"]])
)
ARGUMENTS = {
    "first": plans,
    "plans": st.lists(plans, max_size=3),
    "steps": st.lists(st.tuples(st.integers(0, 2), whats), min_size=1, max_size=14),
    "patiently": st.booleans(),
}


class DatagramLink(Link):
    """Sends numbered datagrams."""

    registrations: Registrations

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sent, self.received = [], []

    def write(self, size):
        if self.lost:
            return  # asyncio's transport no longer has a socket, and fails.
        self.counter += 1
        data = bytes([self.counter % 251]) * size
        if not self.transport.is_closing() and self.peer.family == socket.AF_UNIX:
            self.due = len(self.written) + size
        self.written += data
        self.sent.append(data)
        self.transport.sendto(data)

    def act(self, name, size, inside=""):
        if name == "flood":
            for _ in range(size):
                super().act("write", 500, inside)
        elif name == "set_protocol":
            self.transport.set_protocol(ReactingToDatagrams(self, "second"))
        else:
            super().act(name, size, inside)

    def act_as_peer(self, name, size):
        # The system discards the receive queue of a socket that sends to a closed one.
        if name != "peer_send" or not self.lost:
            super().act_as_peer(name, size)

    def wanted(self):
        """asyncio's count of buffered bytes is wrong from 3.12 on: the loops are compared."""
        found = self.registrations().get(self.fd, set())
        self.answers.append(sorted(found))
        if self.lost:
            return set()
        reading = {"read"} if self.transport.is_reading() else set()
        return reading | (found & {"write"})

    def flow_control_fault(self):
        return None

    def read_as_peer(self, limit):
        while limit > 0 and self.peer.fileno() >= 0:
            try:
                data = self.peer.recv(65536)
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # An error of the peer's own datagrams, after our socket was closed.
            limit -= len(data)
            self.at_peer += data
            self.received.append(data)

    def arrived_as_written(self):
        if self.peer.family == socket.AF_UNIX:
            return super().arrived_as_written()
        # The system drops those for which the peer's buffer has no room.
        sent = iter(self.sent)
        return all(data in sent for data in self.received)


class ReactingToDatagrams(asyncio.DatagramProtocol):
    """Like Reacting, for datagrams."""

    def __init__(self, link, name="first"):
        self.link, self.name = link, name

    def note(self, callback, *details):
        self.link.note(self.name, callback, *details)
        self.link.react(callback)

    def connection_made(self, transport):
        self.link.transport = transport
        self.note("made")

    def datagram_received(self, data, address):
        self.note("data", data)

    def error_received(self, error):
        self.note("error", type(error).__name__)

    def pause_writing(self):
        self.link.writing_paused = True
        self.note("pause")

    def resume_writing(self):
        self.link.writing_paused = False
        self.note("resume")

    def connection_lost(self, error):
        self.link.written_before_loss = len(self.link.written)
        self.note("lost", type(error).__name__)


async def open_unix(reactions, keep_open):
    """A link whose peer takes about ten datagrams before it has to read."""
    return await opened(socket.AF_UNIX, "", reactions)  # "": a name that the system chooses


async def open_udp(reactions, keep_open):
    """A link over the loopback interface, whose peer drops datagrams when its buffer is full."""
    return await opened(socket.AF_INET, ("127.0.0.1", 0), reactions)


async def opened(family, address, reactions):
    ours, peer = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    for end in (ours, peer):
        end.setblocking(False)
        end.bind(address)
    ours.connect(peer.getsockname())
    peer.connect(ours.getsockname())
    link = DatagramLink(peer, reactions, False)
    link.fd = ours.fileno()
    link.registrations = await Registrations.of_running_loop()
    link.registrations.own.clear()
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: ReactingToDatagrams(link), sock=ours)
    return link


@settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
# 168 datagrams of 500 bytes fit, and a smaller one after those that did not.
@example(
    ({}, False), [], [*[(0, ("write", 1))] * 4, *[(0, ("flood", 40))] * 5, (0, ("write", 1))], False
)
@given(**ARGUMENTS)
def check(counts, log, opener, first, plans, steps, patiently):
    compare(counts, log, opener, first, plans, steps, patiently)


# The first releases of 3.11 have no flow control of reading in datagram transports.
CAN_PAUSE = (
    selector_events._SelectorDatagramTransport.is_reading
    is not asyncio.transports.ReadTransport.is_reading
)


@pytest.mark.skipif(not CAN_PAUSE, reason="datagram transports of early 3.11 cannot be paused")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("opener", [open_unix, open_udp])
def test_callbacks_of_datagrams_may_act(log, opener):
    counts = Counter()
    check(counts, log, opener)
    assert counts["compared"] > counts["runs"] / 2


@pytest.mark.parametrize("how", ["drain", "close", "abort"])
def test_a_full_peer_that_goes_away(run, how):
    """The socket is registered only while datagrams wait for buffer space."""

    async def main():
        registrations = await Registrations.of_running_loop()
        link = await open_unix({"resume": [[("flood", 3)]]}, False)
        link.act("flood", 300)
        assert registrations() == {link.fd: {"read", "write"}}
        if how != "drain":
            link.act(how, 0)
        while registrations().get(link.fd) == {"read", "write"} or (
            how == "close" and not link.lost
        ):
            link.read_as_peer(1 << 20)
            await asyncio.sleep(0)
        link.read_as_peer(1 << 20)
        if how != "abort":
            assert link.at_peer[: 300 * 500] == link.written[: 300 * 500]
        await asyncio.sleep(0)
        assert registrations() == ({link.fd: {"read"}} if how == "drain" else {})
        await assert_sleeps()
        link.transport.close()
        link.peer.close()
        await asyncio.sleep(0)
        other = await open_unix({}, False)
        other.act("write", 10)
        other.read_as_peer(10)
        assert other.at_peer == other.written
        other.transport.close()
        other.peer.close()
        await asyncio.sleep(0)

    run(main())
