"""`getaddrinfo()` of strings that look like addresses, compared with the `socket` module.

python addresses.py SECONDS SEED
"""

import asyncio
import random
import socket
import sys
import time

import ferroloop

PIECES = (
    *(
        "0",
        "1",
        "01",
        "0x7f",
        "127",
        "255",
        "256",
        "300",
        "4294967295",
        "4294967296",
        "99999999999",
    ),
    *(".", ".", ".", ":", ":", "::", "%", "%lo", "%0", "%1", "%nowhere", "ffff", "fe80", "::1"),
    *("[", "]", " ", "\t", "-", "+", "/", "\x00", "٣", "é", "localhost", "1e3", "_"),
)
SHAPES = (
    "127.0.0.1",
    "::1",
    "fe80::1%lo",
    "::ffff:1.2.3.4",
    "0.0.0.0",
    "::",
    "1.2.3",
    "255.255.255.255",
)
PORTS = (
    None,
    0,
    1,
    80,
    65535,
    65536,
    -1,
    "0",
    "80",
    "080",
    " 80",
    "80 ",
    "65536",
    "-1",
    "http",
    "",
)
FAMILIES = (0, socket.AF_INET, socket.AF_INET6)
TYPES = (0, socket.SOCK_STREAM, socket.SOCK_DGRAM)
FLAGS = (0, socket.AI_PASSIVE, socket.AI_NUMERICSERV, socket.AI_V4MAPPED, socket.AI_CANONNAME)


def host(chance):
    """A string that may be an address; AI_NUMERICHOST prevents a DNS lookup."""
    if chance.random() < 0.3:
        text = list(chance.choice(SHAPES))
        for _ in range(chance.randrange(3)):
            text[chance.randrange(len(text))] = chance.choice(PIECES)
        return "".join(text)
    return "".join(chance.choices(PIECES, k=chance.randrange(1, 9)))


async def outcome(call):
    """The value or the error, in a form that can be compared."""
    try:
        return await call
    except Exception as error:
        return type(error), str(error)


async def direct(*args, **kwargs):
    return socket.getaddrinfo(*args, **kwargs)


async def main(seconds, seed):
    print(f"addresses: seed {seed}")
    chance = random.Random(seed)
    loop, tried, found = asyncio.get_running_loop(), 0, 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        words = {
            "family": chance.choice(FAMILIES),
            "type": chance.choice(TYPES),
            "flags": chance.choice(FLAGS) | socket.AI_NUMERICHOST,
        }
        name, port = host(chance), chance.choice(PORTS)
        if chance.random() < 0.1:
            name = name.encode(errors="replace")
        expected = await outcome(direct(name, port, **words))
        got = await outcome(loop.getaddrinfo(name, port, **words))
        assert got == expected, (name, port, words, got, expected)
        tried, found = tried + 1, found + isinstance(got, list)
    print(f"addresses: {tried} tried, {found} of them are addresses")
    assert found


ferroloop.run(main(float(sys.argv[1]), int(sys.argv[2])))
