"""How long replies take when requests come at random times, and the slowest loop is half busy."""

import contextlib

from benches.workload import served
from benches.workloads import echo, servers

CONNECTIONS = 32
ECHO = echo.echo_load(1024, CONNECTIONS)
HTTP = ("http", "--size", str(len(servers.BODY)), "--connections", str(CONNECTIONS))


@contextlib.asynccontextmanager
async def protocol(endpoint):
    async with echo.tcp(endpoint, "protocol") as address:
        yield address


@contextlib.asynccontextmanager
async def streams(endpoint):
    async with echo.tcp(endpoint, "streams") as address:
        yield address


@contextlib.asynccontextmanager
async def uvicorn(endpoint):
    async with servers.uvicorn(endpoint, http="httptools") as address:
        yield address


for serve, title, load, modules in (
    (protocol, "TCP protocol echo, 1 KiB", ECHO, ()),
    (streams, "TCP streams echo, 1 KiB", ECHO, ()),
    (uvicorn, "uvicorn with httptools, 1 KiB response", HTTP, ("uvicorn", "httptools")),
):
    for percentage in ("50", "99", "99.9"):
        served(
            f"latency-{serve.__name__}-p{percentage}",
            "latency",
            f"{title}, {CONNECTIONS} connections at half load: {percentage} % of replies within",
            serve,
            *load,
            percentage=percentage,
            modules=modules,
        )
