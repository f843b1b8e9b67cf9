"""One busy peer must not starve other peers, timers or callbacks."""

import asyncio
import socket
import threading
import time

from ..support.protocols import Recorder


class Swallow(asyncio.Protocol):
    """Counts received bytes, and spends some time on each piece."""

    def __init__(self):
        self.received = 0
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, error):
        self.lost.set_result(error)

    def data_received(self, data):
        self.received += len(data)
        time.sleep(0.0005)


def flood(address, stop):
    block = bytes(1 << 20)
    with socket.create_connection(address) as sock:
        sock.settimeout(0.2)
        while not stop.is_set():
            try:
                sock.send(block)
            except TimeoutError:
                continue
            except OSError:
                break


def test_a_flood_does_not_stop_timers_and_others(run):
    stop = threading.Event()
    floods = 4

    async def main():
        loop = asyncio.get_running_loop()
        swallows = []

        def make():
            swallows.append(Swallow())
            return swallows[-1]

        noisy = await loop.create_server(make, "127.0.0.1", 0)
        quiet = await loop.create_server(Echo, "127.0.0.1", 0)
        address = noisy.sockets[0].getsockname()
        threads = [threading.Thread(target=flood, args=(address, stop)) for _ in range(floods)]
        for thread in threads:
            thread.start()
        try:
            async with asyncio.timeout(20):
                while len(swallows) < floods or not all(s.received for s in swallows):
                    await asyncio.sleep(0.01)
            transport, protocol = await loop.create_connection(
                Recorder, *quiet.sockets[0].getsockname()
            )
            late, slow = [], []
            for number in range(20):
                before = loop.time()
                await asyncio.sleep(0.01)
                late.append(loop.time() - before - 0.01)
                transport.write(b"x")
                before = loop.time()
                await protocol.until(lambda n=number: len(protocol.received) > n)
                slow.append(loop.time() - before)
            counts = [swallow.received for swallow in swallows]
        finally:
            stop.set()
            await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        transport.close()
        await protocol.done
        for swallow in swallows:
            await swallow.lost
        for server in (noisy, quiet):
            server.close()
            await server.wait_closed()
        return sorted(late)[10], sorted(slow)[10], counts

    late, slow, counts = run(main())
    # A turn serves each flooding peer once: a few milliseconds, however much they send.
    assert late < 0.1
    assert slow < 0.2
    # And no flooding peer is served much more than another.
    assert min(counts) * 20 > max(counts)


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


def test_datagrams_do_not_starve_callbacks(run):
    async def main():
        loop = asyncio.get_running_loop()
        turns = 0

        class Again(asyncio.DatagramProtocol):
            """Sends itself two datagrams for each one received."""

            received = 0

            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, address):
                Again.received += 1
                for _ in range(2):
                    self.transport.sendto(data, address)

        transport, _ = await loop.create_datagram_endpoint(Again, local_addr=("127.0.0.1", 0))
        transport.sendto(b"again", transport.get_extra_info("sockname"))
        deadline = loop.time() + 0.3
        while loop.time() < deadline:
            await asyncio.sleep(0)
            turns += 1
        transport.abort()
        await asyncio.sleep(0)
        return turns, Again.received

    turns, received = run(main())
    assert received > 100
    assert turns > received / 100
