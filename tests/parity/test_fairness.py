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


class Chain:
    """A callback in each turn, for as long as it is wanted."""

    def __init__(self, loop):
        self.loop, self.turns = loop, 0
        self.handle = loop.call_soon(self.turn)

    def turn(self):
        self.turns += 1
        self.handle = self.loop.call_soon(self.turn)

    async def wait_for(self, turns):
        while self.turns < turns:
            await asyncio.sleep(0)


async def open_pair(make_protocol=Recorder):
    """A transport with a recorder at either end of a socket pair, and nothing in flight."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    sender, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    receiver, recorder = await loop.create_connection(make_protocol, sock=theirs)
    return sender, receiver, recorder


def test_a_long_busy_loop_sees_what_it_has_sent_in_the_next_turns(run):
    """The loop may poll less often while polls find nothing, but not after it has sent."""

    class Counter(asyncio.Protocol):
        def data_received(self, data):
            arrivals.append(chain.turns)

    arrivals, chain = [], None

    async def main():
        nonlocal chain
        sender, receiver, _ = await open_pair(Counter)
        chain = Chain(asyncio.get_running_loop())
        waits = []
        for _ in range(5):
            await chain.wait_for(chain.turns + 1000)
            arrivals.clear()
            sent = chain.turns
            sender.write(b"x")
            while not arrivals:
                await asyncio.sleep(0)
            waits.append(arrivals[0] - sent)
        chain.handle.cancel()
        sender.close()
        receiver.close()
        return waits

    waits = run(main())
    assert all(1 <= wait <= 3 for wait in waits), waits


def test_a_long_busy_loop_sees_what_it_starts_to_watch_in_the_next_turns(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        _, receiver, _ = await open_pair()
        chain = Chain(loop)
        await chain.wait_for(1000)
        ours.send(b"x")
        seen = []
        began = chain.turns
        loop.add_reader(theirs, lambda: seen.append(chain.turns))
        while not seen:
            await asyncio.sleep(0)
        loop.remove_reader(theirs)
        chain.handle.cancel()
        receiver.close()
        ours.close()
        theirs.close()
        return seen[0] - began

    assert 1 <= run(main()) <= 3


def test_a_long_busy_loop_sees_what_others_send(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        receiver, recorder = await loop.create_connection(Recorder, sock=theirs)
        chain = Chain(loop)
        for i in range(20):
            await chain.wait_for(chain.turns + 300)
            ours.send(b"%02d" % i)
            while len(recorder.received) < 2 * (i + 1):
                await asyncio.sleep(0)
        chain.handle.cancel()
        receiver.close()
        ours.close()
        return bytes(recorder.received)

    assert run(main()) == b"".join(b"%02d" % i for i in range(20))


def test_timers_that_are_always_due_do_not_starve_a_socket(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        receiver, recorder = await loop.create_connection(Recorder, sock=theirs)
        fired = 0

        def fire():
            nonlocal fired
            fired += 1
            if not recorder.received:
                loop.call_later(0, fire)

        fire()
        thread = threading.Timer(0.05, ours.send, [b"x"])
        thread.start()
        while not recorder.received:
            await asyncio.sleep(0.01)
        thread.join()
        receiver.close()
        ours.close()
        return fired

    assert run(main()) > 10
