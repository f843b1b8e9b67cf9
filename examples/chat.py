"""A small chat over TCP: one server, three clients, lines of text over streams."""

import asyncio

writers: dict[str, asyncio.StreamWriter] = {}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    name = (await reader.readline()).decode().strip()
    writers[name] = writer
    writer.write(b"welcome\n")
    async for line in reader:
        for other, to in writers.items():
            if other != name:
                to.write(f"{name}: ".encode() + line)
                await to.drain()
    del writers[name]
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = {}
    for name in ("ann", "bob", "cid"):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(f"{name}\n".encode())
        print(name, "gets", await reader.readline())
        clients[name] = reader, writer
    for name, (_, writer) in clients.items():
        writer.write(f"I am {name}\n".encode())
        await writer.drain()
        for other, (reader, _) in clients.items():
            if other != name:
                print(other, "gets", await reader.readline())
    for reader, writer in clients.values():
        writer.write_eof()
        print("the rest:", await reader.read())
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()
    print("serving:", server.is_serving(), "left:", writers)


asyncio.run(main())
