"""open_connection, start_server, StreamReader and StreamWriter."""

import asyncio
import gc
import threading

import pytest

from ..support import peers


async def answer(reader, writer):
    """Sends every line back, upper case."""
    async for line in reader:
        writer.write(line.upper())
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def serving(handler=answer, **options):
    server = await asyncio.start_server(handler, "127.0.0.1", 0, **options)
    return server, server.sockets[0].getsockname()


async def finish(server):
    server.close()
    await server.wait_closed()
    # In 3.11 that does not wait for the handlers.
    if handlers := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(handlers)


async def end(writer):
    writer.close()
    await writer.wait_closed()


def test_lines(run):
    async def main():
        server, address = await serving()
        reader, writer = await asyncio.open_connection(*address)
        found = []
        for word in ("one", "two", "three"):
            writer.write(f"{word}\n".encode())
            await writer.drain()
            found.append(await reader.readline())
        writer.write_eof()
        found.append(await reader.read())
        await end(writer)
        await finish(server)
        return found

    assert run(main()) == [b"ONE\n", b"TWO\n", b"THREE\n", b""]


def test_ways_of_reading(run):
    def serve(connection):
        connection.sendall(b"0123456789|rest of it\nlast")

    with peers.listening(serve) as address:

        async def main():
            reader, writer = await asyncio.open_connection(*address)
            found = [
                await reader.readexactly(4),
                await reader.readuntil(b"|"),
                await reader.readline(),
            ]
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await reader.readexactly(10)
            found.append(caught.value.partial)
            assert reader.at_eof()
            found.append(await reader.read())
            await end(writer)
            return found

        assert run(main()) == [b"0123", b"456789|", b"rest of it\n", b"last", b""]


def test_limit(run):
    def serve(connection):
        connection.sendall(b"x" * 1000 + b"\n")

    with peers.listening(serve) as address:

        async def main():
            reader, writer = await asyncio.open_connection(*address, limit=100)
            with pytest.raises(ValueError, match="Separator is"):
                await reader.readline()
            await end(writer)

        run(main())


def test_large_transfer_with_back_pressure(run):
    data = bytes(range(256)) * 40_000  # 10 MB

    async def main():
        async def echo(reader, writer):
            while chunk := await reader.read(100_000):
                writer.write(chunk)
                await writer.drain()
            await end(writer)

        server, address = await serving(echo)
        reader, writer = await asyncio.open_connection(*address)

        async def send():
            for start in range(0, len(data), 50_000):
                writer.write(data[start : start + 50_000])
                await writer.drain()
            writer.write_eof()

        _, received = await asyncio.gather(send(), reader.read())
        await end(writer)
        await finish(server)
        return received == data

    assert run(main())


def test_drain_waits_for_a_slow_reader(run):
    go, found = threading.Event(), []

    def serve(connection):
        go.wait(peers.SECONDS)
        found.append(len(peers.receive_all(connection)))

    with peers.listening(serve) as address:

        async def main():
            _, writer = await asyncio.open_connection(*address)
            writer.write(b"x" * 30_000_000)
            drain = asyncio.create_task(writer.drain())
            await asyncio.sleep(0.02)
            assert not drain.done()
            go.set()
            await drain
            await end(writer)

        run(main())
    assert found == [30_000_000]


def test_cancelled_read_loses_nothing(run):
    async def main():
        async def slow(reader, writer):
            await reader.readline()
            writer.write(b"answer\n")
            await end(writer)

        server, address = await serving(slow)
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readline(), 0.005)
        writer.write(b"go\n")
        found = await reader.readline()
        await end(writer)
        await finish(server)
        return found

    assert run(main()) == b"answer\n"


def test_two_readers_at_once(run):
    with peers.listening(peers.receive_all) as address:

        async def main():
            reader, writer = await asyncio.open_connection(*address)
            first = asyncio.create_task(reader.read(1))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError) as caught:
                await reader.read(1)
            first.cancel()
            await end(writer)
            return str(caught.value)

        expected = "read() called while another coroutine is already waiting for incoming data"
        assert run(main()) == expected


def test_reset_while_reading(run):
    def serve(connection):
        connection.recv(1)
        peers.reset(connection)

    with peers.listening(serve) as address:

        async def main():
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            with pytest.raises(ConnectionResetError):
                await writer.wait_closed()

        run(main())


def test_handler_exception(run, log):
    async def main():
        async def bad(reader, writer):
            await reader.readline()
            raise ZeroDivisionError("in handler")

        server, address = await serving(bad)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x\n")
        found = await reader.read()
        await end(writer)
        await finish(server)
        gc.collect()
        return found

    assert run(main()) == b""
    messages = log.messages()
    assert messages[0].startswith(
        ("Unhandled exception in client_connected_cb", "Task exception was never retrieved")
    )


def test_extra_info_and_attributes(run):
    async def main():
        server, address = await serving()
        reader, writer = await asyncio.open_connection(*address)
        assert writer.get_extra_info("peername") == address
        assert writer.transport.get_extra_info("peername") == address
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        assert not writer.is_closing()
        assert writer.can_write_eof()
        assert repr(writer).startswith("<StreamWriter transport=<")
        await end(writer)
        assert writer.is_closing()
        await finish(server)

    run(main())


def test_many_clients(run):
    async def main():
        server, address = await serving()

        async def talk(number):
            reader, writer = await asyncio.open_connection(*address)
            for i in range(10):
                writer.write(b"%d %d a\n" % (number, i))
                assert await reader.readline() == b"%d %d A\n" % (number, i)
            await end(writer)

        await asyncio.gather(*[talk(number) for number in range(50)])
        await finish(server)

    run(main())


def test_unix_sockets(run, tmp_path):
    path = tmp_path / "socket"

    async def main():
        server = await asyncio.start_unix_server(answer, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"over unix\n")
        found = await reader.readline()
        await end(writer)
        await finish(server)
        return found

    assert run(main()) == b"OVER UNIX\n"
