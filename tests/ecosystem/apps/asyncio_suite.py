"""A small test suite for pytest-asyncio, whose loop comes from the environment."""

import asyncio
import os

import pytest
import pytest_asyncio

from tests.ecosystem.loops import Loop, running

NAME = os.environ["ECOSYSTEM_LOOP"]


@pytest_asyncio.fixture
async def server():
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared():
    queue: asyncio.Queue[int] = asyncio.Queue()
    yield queue
    assert queue.empty()


@pytest.mark.asyncio
async def test_fixture_and_test_share_a_loop(server):
    assert running() == NAME
    reader, writer = await asyncio.open_connection(*server)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()


@pytest.mark.asyncio
@pytest.mark.parametrize("number", range(10))
async def test_parametrized(number):
    assert running() == NAME
    assert await asyncio.gather(*(asyncio.sleep(0.001, n) for n in range(number))) == list(
        range(number)
    )


@pytest.mark.asyncio(loop_scope="module")
class TestSharedLoop:
    async def test_put(self, shared):
        await shared.put(1)

    async def test_get(self, shared):
        assert await shared.get() == 1
        assert running() == NAME


@pytest.mark.asyncio
@pytest.mark.xfail(raises=TimeoutError, strict=True)
async def test_fails_as_expected():
    async with asyncio.timeout(0.01):
        await asyncio.sleep(10)


def pytest_asyncio_loop_factories(config, item):
    return {NAME: Loop(NAME).factory}
