"""DNS lookups, and literal addresses that need none."""

import asyncio
import socket

from benches.workload import timed

GROUP = "names"


@timed("getaddrinfo-literal", GROUP, "getaddrinfo of 127.0.0.1", 1_000, parallel=True)
async def getaddrinfo_literal(n):
    loop = asyncio.get_running_loop()
    done = 0
    for _ in range(n):
        found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        done += found[0][4] == ("127.0.0.1", 80)
    return done


@timed("getaddrinfo-name", GROUP, "getaddrinfo of localhost", 500, parallel=True)
async def getaddrinfo_name(n):
    loop = asyncio.get_running_loop()
    done = 0
    for _ in range(n):
        found = await loop.getaddrinfo(
            "localhost", 80, family=socket.AF_INET, type=socket.SOCK_STREAM
        )
        done += found[0][4] == ("127.0.0.1", 80)
    return done


@timed("getaddrinfo-64", GROUP, "getaddrinfo of localhost, 64 in flight", 1_280, parallel=True)
async def getaddrinfo_64(n):
    return sum(await asyncio.gather(*[getaddrinfo_name(n // 64) for _ in range(64)]))
