"""The crate's own events, in Python's `logging` or on stderr. asyncio has no counterpart."""

import asyncio
import logging
import re
import time

import pytest

from ..support.programs import run_program

pytestmark = pytest.mark.only("ferroloop")


@pytest.fixture
def records():
    """The records of the loggers below `ferroloop`, at level DEBUG."""
    found = []
    handler = logging.Handler()
    handler.emit = found.append
    logger = logging.getLogger("ferroloop")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


def texts(records, name):
    return [record.getMessage() for record in records if record.name == f"ferroloop.{name}"]


async def talk():
    async def answer(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\n")
    assert await reader.read() == b"hello\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def test_the_life_of_a_loop_and_its_connections(loop, records):
    loop.run_until_complete(asyncio.sleep(0))  # the new levels are noticed
    records.clear()
    before = time.time()
    loop.run_until_complete(talk())
    loop.run_until_complete(loop.run_in_executor(None, int))
    where = f"run{{event_loop={loop.metrics().number}}}: "
    assert texts(records, "loop") == [where + "a loop starts", where + "a loop stops"] * 2
    seen = [text.removeprefix(where) for text in texts(records, "transport")]
    assert re.match(r"a connection was accepted listener=\d+ peer=127\.0\.0\.1:\d+$", seen[0])
    assert len([text for text in seen if text.startswith("a transport opens fd=")]) == 2
    assert len([text for text in seen if text.startswith("a transport closes fd=")]) == 2
    # This was requested before the loop ran.
    assert texts(records, "pool") == ['a thread starts thread="asyncio_0"']
    first = records[0]
    assert first.levelno == logging.DEBUG
    assert first.filename == "lifecycle.rs"
    assert before - 1 < first.created <= time.time()
    assert [record.created for record in records] == sorted(record.created for record in records)


def test_connections_lost_and_children(loop, records):
    async def main():
        async def reset(reader, writer):
            writer.transport.abort()

        server = await asyncio.start_server(reset, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 1000)
        with pytest.raises(ConnectionError):
            while True:
                if not await reader.read(100):
                    writer.write(b"x")
                    await writer.drain()
                await asyncio.sleep(0)
        writer.close()
        server.close()
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
        assert await process.wait() == 3

    loop.run_until_complete(main())
    assert any("a connection is lost" in text for text in texts(records, "transport"))
    started, ended = texts(records, "subprocess")
    assert re.search(r"a child was started pid=\d+$", started)
    assert re.search(r"a child has ended pid=\d+ code=3$", ended)


def test_slow_turns(loop, records):
    async def main():
        for _ in range(6):
            await asyncio.sleep(0.001)
            time.sleep(0.15)
        await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    slow = [text for text in texts(records, "loop") if "took long" in text]
    assert len(slow) == 6
    assert all(0.15 <= float(text.rpartition("seconds=")[2]) < 10 for text in slow)


def test_levels_change_while_the_loop_runs(loop, records):
    logger = logging.getLogger("ferroloop")
    logger.setLevel(logging.WARNING)

    async def main():
        await talk()
        assert records == []
        logging.getLogger("ferroloop.transport").setLevel(logging.DEBUG)
        await asyncio.sleep(0.001)
        await talk()

    try:
        loop.run_until_complete(main())
    finally:
        logging.getLogger("ferroloop.transport").setLevel(logging.NOTSET)
    assert {record.name for record in records} == {"ferroloop.transport"}


def test_a_handler_that_uses_the_loop(loop, records):
    """Handlers run between callbacks: they may schedule callbacks, and may fail."""
    called, raised = [], []

    class Handler(logging.Handler):
        def emit(self, record):
            loop.call_soon(called.append, record.getMessage())
            raise RuntimeError("of the handler")

        def handle(self, record):
            try:
                self.emit(record)
            except RuntimeError as error:
                raised.append(error)

    handler = Handler()
    logger = logging.getLogger("ferroloop.transport")
    logger.addHandler(handler)
    try:
        loop.run_until_complete(talk())
        loop.run_until_complete(asyncio.sleep(0.001))
    finally:
        logger.removeHandler(handler)
    assert called
    assert raised
    raised.clear()


@pytest.fixture
def at_root():
    """The records that reach the root logger, and a way to set its level."""
    found = []
    handler = logging.Handler()
    handler.emit = found.append
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    try:
        yield root, found
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


@pytest.mark.only("asyncio", "ferroloop")
@pytest.mark.mode("plain")
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_the_root_level_does_not_enable_events(loop, at_root, level):
    root, found = at_root
    root.setLevel(level)

    async def main():
        await talk()
        time.sleep(0.15)
        await loop.run_in_executor(None, int)
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()

    loop.run_until_complete(main())
    assert [record for record in found if record.name != "asyncio"] == []


@pytest.mark.mode("plain")
@pytest.mark.parametrize("name", ["ferroloop", "ferroloop.transport"])
def test_an_explicit_level_enables_events(loop, at_root, name):
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    try:
        loop.run_until_complete(talk())
    finally:
        logger.setLevel(logging.NOTSET)
    root, found = at_root
    names = {record.name for record in found if record.levelno == logging.DEBUG}
    assert names - {"asyncio"} == (
        {"ferroloop.transport"}
        if name != "ferroloop"
        else {"ferroloop.transport", "ferroloop.loop"}
    )
    found.clear()
    loop.run_until_complete(talk())
    assert [record for record in found if record.name != "asyncio"] == []


def test_silent_by_default(flavour):
    source = """
    async def main():
        await asyncio.sleep(0.001)
        time.sleep(0.2)
    loop = new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    """
    if flavour.debug:
        source = source.replace("time.sleep(0.2)", "")
    assert run_program(flavour, source) == (0, "", "")


def test_stderr_enabled_by_the_environment(flavour, monkeypatch):
    source = """
    loop = new_event_loop()
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    """
    monkeypatch.setenv("FERROLOOP_LOG", "ferroloop::loop=debug")
    status, out, errors = run_program(flavour, source)
    assert (status, out) == (0, "")
    first, second = errors.splitlines()
    line = r"\S+Z DEBUG run\{event_loop=0\}: ferroloop::loop: a loop "
    assert re.fullmatch(line + "starts", first)
    assert re.fullmatch(line + "stops", second)
    monkeypatch.setenv("FERROLOOP_LOG", "ferroloop=loud")
    status, out, errors = run_program(flavour, source)
    assert status == 1
    assert 'ValueError: FERROLOOP_LOG "ferroloop=loud":' in errors
