"""Floods of datagrams inside one loop: many at a time, in both directions of one process."""

import asyncio
import socket

from benches.workload import timed

SIZE = 1200
#: what is sent before the receiver runs: its buffer holds as many by default
AT_A_TIME = 32


class Receiver(asyncio.DatagramProtocol):
    """Counts, and wakes the sender after each group."""

    def __init__(self):
        self.count = self.wrong = 0
        self.complete = None

    def datagram_received(self, data, address):
        self.count += 1
        self.wrong += len(data) != SIZE
        if self.count % AT_A_TIME == 0:
            self.complete.set_result(None)


class SegmentReceiver(Receiver):
    """Takes several at a time where the loop delivers them so."""

    def datagrams_received(self, datagrams, address):
        for data in datagrams:
            self.datagram_received(data, address)


async def flood(n, factory, send):
    """Send `n` datagrams in groups."""
    loop = asyncio.get_running_loop()
    sink, receiver = await loop.create_datagram_endpoint(factory, local_addr=("127.0.0.1", 0))
    sink.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    address = sink.get_extra_info("sockname")
    source, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
    data = b"x" * (SIZE * AT_A_TIME)
    for _ in range(n // AT_A_TIME):
        receiver.complete = loop.create_future()
        send(source, data)
        await receiver.complete
    source.close()
    sink.close()
    return receiver.count - receiver.wrong


def send_singly(transport, data):
    for start in range(0, len(data), SIZE):
        transport.sendto(data[start : start + SIZE])


def send_together(transport, data):
    if hasattr(transport, "send_segments"):
        transport.send_segments(data, SIZE)
    else:
        send_singly(transport, data)


@timed("udp-flood", "udp", "UDP datagrams of 1,200 bytes, 32 at a time, inside one loop", 6_400)
async def udp_flood(n):
    return await flood(n, Receiver, send_singly)


@timed(
    "udp-flood-segments",
    "udp",
    "the same by send_segments() and datagrams_received() (ferroloop only)",
    6_400,
)
async def udp_flood_segments(n):
    return await flood(n, SegmentReceiver, send_together)
