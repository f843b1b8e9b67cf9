"""psycopg (async): pool, pipelines, COPY, notifications, cancelled queries."""

import asyncio

import psycopg
from psycopg_pool import AsyncConnectionPool

from .. import services
from ..expected import expected
from ..loops import Loop


async def value(connection: psycopg.AsyncConnection, query: str, *parameters) -> object:
    cursor = await connection.execute(query, parameters)
    row = await cursor.fetchone()
    return row and row[0]


async def check_rows(connection: psycopg.AsyncConnection) -> None:
    await connection.execute("CREATE TABLE line (number int, text text)")
    lines = [(number, "line " * (number % 50)) for number in range(20_000)]
    async with connection.cursor() as cursor:
        async with cursor.copy("COPY line FROM STDIN") as copy:
            for line in lines:
                await copy.write_row(line)
        await cursor.execute("SELECT * FROM line ORDER BY number")
        assert [row async for row in cursor] == lines
        async with cursor.copy("COPY (SELECT * FROM line ORDER BY number) TO STDOUT") as copy:
            assert [number async for number, _ in copy.rows()] == [str(n) for n in range(20_000)]
    async with connection.cursor("server_side") as cursor:
        await cursor.execute("SELECT number FROM line ORDER BY number")
        assert [number for (number,) in await cursor.fetchmany(500)] == list(range(500))
    async with connection.pipeline():
        cursors = [await connection.execute("SELECT %s::int", (n,)) for n in range(200)]
        assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(200)]
    await connection.commit()


async def check_pool(pool: AsyncConnectionPool) -> None:
    async def double(number: int) -> object:
        async with pool.connection() as connection:
            return await value(connection, "SELECT %s::int * 2", number)

    assert await asyncio.gather(*map(double, range(300))) == list(range(0, 600, 2))
    with expected(KeyError):
        async with pool.connection() as connection:
            await connection.execute("INSERT INTO line VALUES (-1, 'lost')")
            raise KeyError("roll back")
    async with pool.connection() as connection:
        assert await value(connection, "SELECT count(*) FROM line WHERE number < 0") == 0


async def check_notify(dsn: str) -> None:
    options = {"autocommit": True}
    async with (
        await psycopg.AsyncConnection.connect(dsn, **options) as listener,
        await psycopg.AsyncConnection.connect(dsn, **options) as sender,
    ):
        await listener.execute("LISTEN news")

        async def send() -> None:
            for number in range(20):
                await sender.execute("SELECT pg_notify('news', %s)", (str(number),))

        sending = asyncio.create_task(send())
        got = [it.payload async for it in listener.notifies(timeout=20, stop_after=20)]
        # Notifications that arrive together may be more than were asked for.
        assert got[:20] == [str(number) for number in range(20)]
        await sending


async def check_cancel(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        task = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.1)
        task.cancel()
        with expected(asyncio.CancelledError):
            await task
        assert await value(connection, "SELECT 1") == 1
        asyncio.get_running_loop().call_later(0.1, connection.cancel)
        with expected(psycopg.errors.QueryCanceled):
            await connection.execute("SELECT pg_sleep(60)")


async def check(server: services.Server) -> None:
    dsn = f"user=eco dbname=postgres host=127.0.0.1 port={server.port}"
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await check_rows(connection)
    async with AsyncConnectionPool(dsn, min_size=4, max_size=8, open=False) as pool:
        await check_pool(pool)
    await check_notify(dsn)
    await check_cancel(dsn)
    unix = dsn.replace("127.0.0.1", server.directory)
    async with await psycopg.AsyncConnection.connect(unix) as connection:
        assert await value(connection, "SELECT %s::text", "unix") == "unix"


def main(loop: Loop) -> None:
    with services.postgresql() as server:
        loop.run(check(server))
