"""TLS to a peer that reads late: the poller's registrations, and how the connection ends."""

import asyncio

import pytest

from ..support.protocols import Recorder
from ..support.registrations import Registrations, assert_sleeps
from ..support.tls import Server

#: more than the sockets and the buffers of all layers can hold
SIZE = 8_000_000
PIECES = 400


class Slow(Recorder):
    """Reads nothing until told to."""

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.pause_reading()


class Producer(Recorder):
    """Writes pieces whenever it may, at least two."""

    left = 0

    def produce(self):
        while self.left and self.calls[-1] != "pause":
            self.left -= 2
            for _ in range(2):
                self.transport.write(b"y" * 10_000)

    def resume_writing(self):
        super().resume_writing()
        self.produce()


async def settled():
    for _ in range(10):
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("left", [0, PIECES])
@pytest.mark.parametrize("how", ["close", "abort", "close at once", "abort at once"])
def test_registrations_with_unsent_data(run, log, how, left):
    async def main():
        registrations = await Registrations.of_running_loop()
        async with Server(protocol=Slow) as server:
            for _ in range(2):  # The second connection reuses the descriptor numbers of the first.
                async with asyncio.timeout(10):
                    await end_one(registrations, server, how, left)
            await assert_sleeps()
            listening = server.server.sockets[0].fileno()
            assert registrations() == {listening: {"read"}}

    async def end_one(registrations, server, how, left):
        transport, producer = await server.connect(protocol=Producer)
        fd = transport.get_extra_info("socket").fileno()
        await settled()
        peer = server.protocols[-1]
        transport.write(b"x" * SIZE)
        producer.left = left
        producer.produce()
        await settled()
        assert "write" in registrations()[fd]
        if how.endswith("at once"):
            getattr(transport, how.split()[0])()
        peer.transport.resume_reading()
        if how == "abort at once":
            assert await producer.done is None
            await peer.done
            return
        total = SIZE + left * 10_000
        if how == "close at once":
            await peer.until(lambda: "lost" in peer.calls)
            # Some of the data written after close() may be sent.
            total = max(SIZE, len(peer.received))
        else:
            await peer.until(lambda: len(peer.received) == total)
            await settled()
            assert registrations()[fd] == {"read"}
            await assert_sleeps()
            getattr(transport, how)()
        assert await producer.done is None
        assert await peer.done is None
        assert peer.received == b"x" * SIZE + b"y" * (total - SIZE)

    run(main())
    # Writes after close() are logged.
    if how == "close at once":
        texts = {text for text in log.messages() if not text.startswith("Executing ")}
        assert texts <= {"SSL connection is closed"}


def test_a_reader_that_pauses_and_resumes(run):
    """In both directions at once."""

    async def main():
        registrations = await Registrations.of_running_loop()
        async with Server(protocol=Slow) as server:
            transport, client = await server.connect()
            await settled()
            peer = server.protocols[-1]
            fd = transport.get_extra_info("socket").fileno()
            transport.pause_reading()
            transport.write(b"x" * SIZE)
            peer.transport.write(b"y" * SIZE)
            await settled()
            for turn in range(10):
                for end, protocol in ((peer.transport, peer), (transport, client)):
                    received = len(protocol.received)
                    end.resume_reading()
                    await protocol.until(
                        lambda p=protocol, r=received: len(p.received) > r or r == SIZE
                    )
                    if turn < 9:
                        end.pause_reading()
            await peer.until(lambda: len(peer.received) == SIZE)
            await client.until(lambda: len(client.received) == SIZE)
            assert peer.received == b"x" * SIZE
            assert client.received == b"y" * SIZE
            await settled()
            assert registrations()[fd] == {"read"}
            await assert_sleeps()
            transport.close()
            assert [await client.done, await peer.done] == [None, None]

    run(main())
