"""asyncpg: pool, transactions, prepared statements, COPY, LISTEN/NOTIFY, cancelled queries."""

import asyncio
import datetime
import decimal
import io

import asyncpg

from .. import services
from ..expected import expected
from ..loops import Loop


async def check_types(connection: asyncpg.Connection) -> None:
    values = (
        7,
        "text \N{SNOWMAN}",
        bytes(range(256)),
        decimal.Decimal("3.14"),
        datetime.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=datetime.UTC),
        [1, 2, None],
    )
    kinds = ("int8", "text", "bytea", "numeric", "timestamptz", "int4[]")
    columns = ", ".join(f"${number}::{kind}" for number, kind in enumerate(kinds, 1))
    assert tuple(await connection.fetchrow(f"SELECT {columns}", *values)) == values
    rows = await connection.fetch("SELECT i, repeat('x', i) FROM generate_series(1, 2000) AS i")
    assert [(row[0], len(row[1])) for row in rows] == [(i, i) for i in range(1, 2001)]


async def check_transactions(pool: asyncpg.Pool) -> None:
    await pool.execute("CREATE TABLE account (id int PRIMARY KEY, amount int CHECK (amount >= 0))")
    await pool.executemany("INSERT INTO account VALUES ($1, $2)", [(1, 100), (2, 0)])

    async def move(amount: int) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("UPDATE account SET amount = amount + $1 WHERE id = 2", amount)
            await connection.execute("UPDATE account SET amount = amount - $1 WHERE id = 1", amount)

    outcomes = await asyncio.gather(*(move(15) for _ in range(10)), return_exceptions=True)
    refused = [it for it in outcomes if isinstance(it, asyncpg.CheckViolationError)]
    assert (len(refused), outcomes.count(None)) == (4, 6)
    rows = await pool.fetch("SELECT amount FROM account ORDER BY id")
    assert [row["amount"] for row in rows] == [10, 90]
    async with pool.acquire() as connection, connection.transaction():
        cursor = await connection.cursor("SELECT generate_series(1, 1000)")
        assert [row[0] for row in await cursor.fetch(400)] == list(range(1, 401))
        statement = await connection.prepare("SELECT $1::int * 2")
        assert [await statement.fetchval(number) for number in range(50)] == list(range(0, 100, 2))


async def check_copy(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE TABLE line (number int, text text)")
    lines = [(number, "line " * (number % 50)) for number in range(20_000)]
    done = await connection.copy_records_to_table("line", records=lines)
    assert done == "COPY 20000"
    out = io.BytesIO()
    await connection.copy_from_query("SELECT * FROM line ORDER BY number", output=out)
    assert out.getvalue().decode() == "".join(f"{number}\t{text}\n" for number, text in lines)


async def check_notify(pool: asyncpg.Pool) -> None:
    received: asyncio.Queue[str] = asyncio.Queue()
    async with pool.acquire() as connection:
        await connection.add_listener("news", lambda *arguments: received.put_nowait(arguments[3]))
        for number in range(20):
            await pool.execute("SELECT pg_notify('news', $1)", str(number))
        got = [await asyncio.wait_for(received.get(), 10) for _ in range(20)]
        assert got == [str(number) for number in range(20)]
        await connection.reset()


async def check_cancel(connection: asyncpg.Connection) -> None:
    """Timeouts and cancellation reach the server; the connection is usable afterwards."""
    with expected(TimeoutError):
        await connection.fetchval("SELECT pg_sleep(60)", timeout=0.1)
    task = asyncio.create_task(connection.fetchval("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.1)
    task.cancel()
    with expected(asyncio.CancelledError):
        await task
    assert await connection.fetchval("SELECT 1") == 1
    active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' "
    assert await connection.fetchval(active + "AND state = 'active'") == 0


async def check(server: services.Server) -> None:
    account = {"user": "eco", "database": "postgres", "port": server.port}
    async with asyncpg.create_pool(host="127.0.0.1", min_size=5, max_size=10, **account) as pool:
        async with pool.acquire() as connection:
            await check_types(connection)
            await check_copy(connection)
            await check_cancel(connection)
        await check_transactions(pool)
        await check_notify(pool)
        values = await asyncio.gather(*(pool.fetchval("SELECT $1::int", i) for i in range(300)))
        assert values == list(range(300))
    connection = await asyncpg.connect(host=server.directory, **account)
    await check_types(connection)
    await connection.close()


def main(loop: Loop) -> None:
    with services.postgresql() as server:
        loop.run(check(server))
