"""Like test_transport_callbacks.py, for pipe transports.

The write end is a pipe or a socket whose reader is slow or gone; the read end is paused, resumed
and closed inside the protocol's callbacks.
"""

import asyncio
import os
import socket
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..support.reactions import Link, Reacting
from ..support.sequences import compare

writes = [("write", 100), ("write_twice", 3000), ("write", 70_000), ("write", 400_000)]
more_writes = [("writelines", 100), ("pump", 40_000), ("pump", 2_000_000), ("limits", 0)]
ends = [("write_eof", 0), ("close", 0), ("abort", 0), ("set_protocol", 0), ("limits", 400_000)]
readers = [("peer_read", 3000), ("peer_read", 70_000), ("peer_close", 0)]
drains = [("peer_drain", 0)]

pauses = [("pause_reading", 0), ("resume_reading", 0)]
writers = [("peer_send", 1), ("peer_send", 4000)]
read_ends = [("close", 0), ("set_protocol", 0), *pauses]


class PipeEnd:
    """The other end of a pipe, with the socket methods that a Link uses."""

    def __init__(self, fd):
        os.set_blocking(fd, False)
        self.fd = fd

    def fileno(self):
        return self.fd

    def recv(self, size):
        return os.read(self.fd, size)

    def send(self, data):
        return os.write(self.fd, data)

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class WriteLink(Link):
    """A write end; it is also watched for reading, to notice that the reader closes its end."""

    resuming = False

    def react(self, callback):
        self.resuming |= callback == "resume"
        super().react(callback)
        self.resuming &= callback != "resume"

    def act(self, name, size, inside=""):
        # A pipe that is closed by resume_writing() loses what resume_writing() wrote.
        self.broken |= self.resuming and name in ("close", "write_eof")
        super().act(name, size, inside)

    def wanted(self):
        if self.lost:
            return set()
        return {"read", "write"} if self.transport.get_write_buffer_size() else {"read"}

    def look(self):
        self.flow.append("step")
        self.answers.append(self.transport.is_closing())


class ReadLink(Link):
    """A read end, which writes nothing."""

    def wanted(self):
        return set() if self.paused or self.transport.is_closing() else {"read"}

    def look(self):
        self.answers.append(self.transport.is_closing())

    def flow_control_fault(self):
        return None


async def open_write_pipe(reactions, keep_open):
    """A link that writes to a pipe, or to one of a pair of sockets."""
    if keep_open:
        ours, peer = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        peer.setblocking(False)
    else:
        reader, writer = os.pipe()
        ours, peer = os.fdopen(writer, "wb", 0), PipeEnd(reader)
    link = WriteLink(peer, reactions, False)
    link.fd = ours.fileno()
    await asyncio.get_running_loop().connect_write_pipe(lambda: Reacting(link), ours)
    return link


async def open_read_pipe(reactions, keep_open):
    """A link that reads from a pipe."""
    reader, writer = os.pipe()
    link = ReadLink(PipeEnd(writer), reactions, keep_open)
    link.fd = reader
    ours = os.fdopen(reader, "rb", 0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: Reacting(link), ours)
    return link


def sequences(names, callbacks, *choices):
    """Strategies for the arguments of compare(): actions of callbacks are drawn from `names`."""
    actions = st.one_of(*map(st.sampled_from, names))
    several = st.lists(st.lists(actions, min_size=1, max_size=4), min_size=1, max_size=3)
    plans = st.tuples(
        st.fixed_dictionaries({}, optional=dict.fromkeys(callbacks, several)), st.booleans()
    )
    whats = st.one_of(*map(st.sampled_from, [*names, *choices, ["open"]]))
    return {
        "first": plans,
        "plans": st.lists(plans, max_size=3),
        "steps": st.lists(st.tuples(st.integers(0, 2), whats), min_size=1, max_size=14),
        "patiently": st.booleans(),
    }


SETTINGS = settings(
    max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


# Not in connection_made(): asyncio watches a pipe that was closed there, and never stops.
@SETTINGS
@given(
    **sequences([writes, more_writes, ends], ["pause", "resume", "lost"], readers, drains, drains)
)
def check_writing(counts, log, first, plans, steps, patiently):
    compare(counts, log, open_write_pipe, first, plans, steps, patiently)


@SETTINGS
@given(**sequences([read_ends], ["made", "data", "eof", "lost"], writers, [("peer_close", 0)]))
def check_reading(counts, log, first, plans, steps, patiently):
    compare(counts, log, open_read_pipe, first, plans, steps, patiently)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("check", [check_writing, check_reading])
def test_callbacks_of_pipes_may_act(log, check):
    counts = Counter()
    check(counts, log)
    assert counts["compared"] > counts["runs"] / 4
