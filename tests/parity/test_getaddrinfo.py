"""getaddrinfo and getnameinfo: the same results as the socket module's, including enum types."""

import asyncio
import contextlib
import inspect
import ipaddress
import logging
import random
import socket
import subprocess
import sys
import threading

import pytest

from ..support.programs import run_program

HOSTS = [
    None, "", "127.0.0.1", "0.0.0.0", "255.255.255.255", "10.1.2.3", "127.1", "0x7f.1", "1",
    "2130706433", "0177.0.0.1", "127.0.0.01", "::", "::1", "::1%lo", "::1%1", "fe80::1",
    "fe80::1%lo", "fe80::1%1",
    "ff02::1%lo", "::ffff:1.2.3.4", "::1.2.3.4", "2001:DB8::00:1", "2001:db8:0:0:1:0:0:1",
    b"127.0.0.1", b"::1", "127.0.0.1\0", "localhost", b"localhost",
    bytearray(b"127.0.0.1"), 127, 1.5, object,
]  # fmt: skip
# Names that libc would look up in DNS unless told not to.
NAMES = [
    "name.invalid", "1.2.3.256", "1.2.3.4.5", "127.0.0.1.", " 127.0.0.1", "127.0.0.1 ", ":::",
    "1:2", "[::1]", "fe80::1%nonesuch", "1.cafe", "-1", b"name.invalid", "x" * 300,
    "näme.invalid", "١٢٧.0.0.1",
]  # fmt: skip
PORTS = [
    None, 0, 1, 80, 65535, 65536, 100000, -1, "80", "080", "", "0", "http", "nonesuch", b"80",
    b"http", "80x", " 80", "65536", "99999999999999999999", True, 1.5, 10**30, object,
]  # fmt: skip
FAMILIES = [0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 12345]
TYPES = [0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET, 99]
PROTOCOLS = [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, 132, 9999]
FLAGS = [
    0, socket.AI_PASSIVE, socket.AI_NUMERICHOST, socket.AI_NUMERICSERV, socket.AI_CANONNAME,
    socket.AI_ADDRCONFIG, socket.AI_V4MAPPED, socket.AI_V4MAPPED | socket.AI_ALL,
    socket.AI_PASSIVE | socket.AI_NUMERICHOST | socket.AI_NUMERICSERV, 1 << 30,
]  # fmt: skip


def described(entries):
    """A list of entries, with the type of each part."""
    assert type(entries) is list
    return [
        [(type(part), part) for part in entry[:4]]
        + [(type(entry[4]), [(type(part), part) for part in entry[4]])]
        for entry in entries
    ]


async def answer(awaitable):
    """A result or an exception in a comparable form."""
    try:
        return described(await awaitable)
    except Exception as error:
        return type(error), error.args, str(error)


def expected_answer(*args):
    try:
        return described(socket.getaddrinfo(*args))
    except Exception as error:
        return type(error), error.args, str(error)


async def compare(loop, host, port, family=0, type=0, proto=0, flags=0):
    expected = expected_answer(host, port, family, type, proto, flags)
    for _ in range(2):  # the loop may cache something on the first call
        got = await answer(
            loop.getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
        )
        assert got == expected, (host, port, family, type, proto, flags)


@pytest.mark.parametrize("host", HOSTS, ids=repr)
def test_hosts(run, host):
    async def main():
        loop = asyncio.get_running_loop()
        for port in (None, 0, 80, "80"):
            for family in FAMILIES[:3]:
                await compare(loop, host, port, family)
            await compare(loop, host, port, type=socket.SOCK_STREAM)
            await compare(loop, host, port, flags=socket.AI_PASSIVE)

    run(main())


@pytest.mark.parametrize("host", NAMES, ids=repr)
def test_names_with_numeric_flags(run, host):
    async def main():
        loop = asyncio.get_running_loop()
        for port in (None, 80, "http"):
            for family in FAMILIES[:3]:
                await compare(loop, host, port, family, flags=socket.AI_NUMERICHOST)

    run(main())


@pytest.mark.parametrize("port", PORTS, ids=repr)
def test_ports(run, port):
    async def main():
        loop = asyncio.get_running_loop()
        for host in (None, "127.0.0.1", "::1", "::1%lo", "127.1"):
            await compare(loop, host, port)
            await compare(loop, host, port, type=socket.SOCK_STREAM)
            await compare(loop, host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICSERV)

    run(main())


@pytest.mark.mode("plain")
@pytest.mark.parametrize("family", FAMILIES)
def test_types_protocols_and_flags(run, family):
    async def main():
        loop = asyncio.get_running_loop()
        for host in ("127.0.0.1", "fe80::1"):
            for type in TYPES:
                for proto in PROTOCOLS:
                    for flags in FLAGS:
                        await compare(loop, host, 80, family, type, proto, flags)

    run(main(), seconds=60)


@pytest.mark.mode("plain")
def test_random_addresses(run):
    randomness = random.Random(4)

    def addresses():
        for _ in range(300):
            yield ipaddress.IPv4Address(randomness.getrandbits(32))
        for _ in range(1500):
            # Runs of zeros make the text form of an address interesting.
            groups = [randomness.choice((0, 0, 1, 0x1234, 0xFFFF)) for _ in range(8)]
            yield ipaddress.IPv6Address(b"".join(group.to_bytes(2, "big") for group in groups))

    async def main():
        loop = asyncio.get_running_loop()
        for address in addresses():
            port = randomness.randrange(65536)
            await compare(loop, str(address), port, type=socket.SOCK_STREAM)
            if address.version == 6:
                await compare(loop, address.exploded.upper(), port)

    run(main(), seconds=60)


def test_bad_arguments(run):
    async def main():
        loop = asyncio.get_running_loop()
        for bad in ("text", None, 1.5, 10**20):
            for name in ("family", "type", "proto", "flags"):
                arguments = {name: bad}
                positions = ("family", "type", "proto", "flags").index(name)
                expected = expected_answer("127.0.0.1", 80, *[0] * positions, bad)
                assert await answer(loop.getaddrinfo("127.0.0.1", 80, **arguments)) == expected
        with pytest.raises(TypeError):
            loop.getaddrinfo("127.0.0.1")
        with pytest.raises(TypeError):
            loop.getaddrinfo("127.0.0.1", 80, 0)

    run(main())


def test_subclasses_of_str_and_int(run):
    class Text(str):
        pass

    class Number(int):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        await compare(loop, Text("127.0.0.1"), 80)
        await compare(loop, "127.0.0.1", Number(80))
        await compare(loop, "127.0.0.1", 80, Number(2), Number(1))

    run(main())


def test_is_a_coroutine_function(loop):
    assert inspect.iscoroutinefunction(loop.getaddrinfo)
    assert inspect.iscoroutinefunction(loop.getnameinfo)
    task = loop.create_task(loop.getaddrinfo("127.0.0.1", 80))
    assert loop.run_until_complete(task)


def test_unknown_name(run):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(socket.gaierror) as caught:
            await loop.getaddrinfo("localhost", 80, flags=socket.AI_NUMERICHOST)
        assert caught.value.errno == socket.EAI_NONAME

    run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_answers_are_independent(run, host):
    async def main():
        loop = asyncio.get_running_loop()
        first = await loop.getaddrinfo(host, 80)
        first.clear()
        assert await loop.getaddrinfo(host, 80) == socket.getaddrinfo(host, 80)

    run(main())


@pytest.mark.only("ferroloop")
@pytest.mark.mode("plain")
def test_literals_need_no_thread(run):
    async def main():
        loop = asyncio.get_running_loop()
        for host in (None, "127.0.0.1", "::1", "fe80::1%lo", "127.1", b"::1"):
            for port in (0, 80, "80", b"80"):
                await loop.getaddrinfo(host, port)
        await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        assert loop._default_executor is None
        await loop.getaddrinfo("localhost", 80)
        assert loop._default_executor is not None

    run(main())


def test_names_are_looked_up_on_the_default_executor(run):
    async def main():
        import concurrent.futures

        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(1, "mine") as executor:
            loop.set_default_executor(executor)
            await compare(loop, "localhost", 80)
            assert [thread.name for thread in executor._threads] == ["mine_0"]

    run(main())


def test_a_replaced_function_is_called(run, monkeypatch):
    calls = []

    def replaced(*args):
        calls.append((args, threading.current_thread() is threading.main_thread()))
        return [("answer", *args)]

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(socket, "getaddrinfo", replaced)
        assert await loop.getaddrinfo("127.0.0.1", 80, type=1) == [
            ("answer", "127.0.0.1", 80, 0, 1, 0, 0)
        ]
        assert await loop.getaddrinfo("name", None, family=2, proto=3, flags=4) == [
            ("answer", "name", None, 2, 0, 3, 4)
        ]
        assert [in_main for _, in_main in calls] == [False, False]
        monkeypatch.undo()
        await compare(loop, "127.0.0.1", 80)

    run(main())


def test_a_replaced_native_function_is_called(run, monkeypatch):
    import _socket

    async def main():
        loop = asyncio.get_running_loop()
        await compare(loop, "127.0.0.1", 80)
        monkeypatch.setattr(
            "socket._socket.getaddrinfo", lambda *args: [(2, 1, 6, "", ("1.1.1.1", 1))]
        )
        assert _socket.getaddrinfo is socket._socket.getaddrinfo
        entries = await loop.getaddrinfo("127.0.0.1", 80)
        assert entries == [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 1))]
        monkeypatch.undo()

    run(main())


def test_a_replaced_getnameinfo_is_called(run, monkeypatch):
    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(socket, "getnameinfo", lambda *args: ("replaced", args))
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert await loop.getnameinfo(("127.0.0.1", 80), numeric) == (
            "replaced",
            (("127.0.0.1", 80), numeric),
        )
        assert await loop.getnameinfo(("127.0.0.1", 80)) == ("replaced", (("127.0.0.1", 80), 0))
        monkeypatch.undo()

    run(main())


@pytest.mark.mode("plain")
def test_replaced_before_the_loop_is_imported(flavour):
    program = f"""if True:
        import sys; sys.path[:] = {sys.path!r}
        import socket; socket.getaddrinfo = lambda *args: ["replaced"]
        import asyncio, {flavour.name}
        loop = {"asyncio.SelectorEventLoop" if flavour.is_asyncio else "ferroloop.new_event_loop"}()
        print(loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80)))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    result = done.returncode, done.stdout, done.stderr
    assert result == (0, "['replaced']\n", "")


@pytest.mark.mode("plain")
def test_audit_events(flavour):
    result = run_program(
        flavour,
        """
        def hook(event, args):
            if event.startswith("socket.get"):
                print(event, args)

        sys.addaudithook(hook)
        loop = new_event_loop()
        for _ in range(2):
            loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80, type=1))
            loop.run_until_complete(loop.getaddrinfo(None, 80, type=1))
            loop.run_until_complete(loop.getaddrinfo("localhost", 80, type=1))
            loop.run_until_complete(loop.getnameinfo(("127.0.0.1", 80), 3))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
    )
    once = (
        "socket.getaddrinfo ('127.0.0.1', 80, 0, 1, 0)\n"
        "socket.getaddrinfo (None, 80, 0, 1, 0)\n"
        "socket.getaddrinfo ('localhost', 80, 0, 1, 0)\n"
        "socket.getnameinfo (('127.0.0.1', 80),)\n"
    )
    assert result == (0, once * 2, "")


@pytest.mark.mode("plain")
def test_an_audit_hook_can_refuse(flavour):
    result = run_program(
        flavour,
        """
        def hook(event, args):
            if event == "socket.getaddrinfo" and allowed[0] <= 0:
                raise PermissionError("refused")
            elif event == "socket.getaddrinfo":
                allowed[0] -= 1

        allowed = [1]
        sys.addaudithook(hook)
        loop = new_event_loop()
        print(len(loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80, type=1))))
        for host in ("127.0.0.1", "::1", "127.1", "localhost"):
            try:
                loop.run_until_complete(loop.getaddrinfo(host, 80, type=1))
            except PermissionError as error:
                print(error)
        allowed[0] = 1
        print(len(loop.run_until_complete(loop.getaddrinfo("::1", 80, type=1))))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
    )
    assert result == (0, "1\n" + 4 * "refused\n" + "1\n", "")


# ---------------------------------------------------------------- debug mode


@pytest.mark.mode("debug")
def test_debug_mode_logs(run, caplog, log):
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 100
        await loop.getaddrinfo("127.0.0.1", 80, family=socket.AF_INET, type=socket.SOCK_STREAM)
        loop.slow_callback_duration = -1
        await loop.getaddrinfo("127.0.0.1", None, proto=6, flags=socket.AI_PASSIVE)

    logger = logging.getLogger("asyncio")
    records = []

    class Catcher(logging.Handler):
        def emit(self, record):
            records.append((record.levelname, record.getMessage()))

    catcher = Catcher()
    logger.addHandler(catcher)
    logger.setLevel(logging.DEBUG)
    try:
        run(main())
    finally:
        logger.removeHandler(catcher)
    texts = [(level, text) for level, text in records if "address info" in text]
    assert len(texts) == 4
    request = f"127.0.0.1:80, family={socket.AF_INET!r}, type={socket.SOCK_STREAM!r}"
    assert texts[0] == ("DEBUG", f"Get address info {request}")
    assert texts[1][0] == "DEBUG"
    assert texts[1][1].startswith(f"Getting address info {request} took ")
    request = f"127.0.0.1:None, proto=6, flags={socket.AI_PASSIVE!r}"
    assert texts[2] == ("DEBUG", f"Get address info {request}")
    assert texts[3][0] == "INFO"
    assert texts[3][1].startswith(f"Getting address info {request} took ")
    log.take()


# ---------------------------------------------------------------- getnameinfo

NAME_FLAGS = [
    0, socket.NI_NUMERICHOST, socket.NI_NUMERICSERV, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV,
    socket.NI_NUMERICHOST | socket.NI_NUMERICSERV | socket.NI_DGRAM, socket.NI_NAMEREQD,
]  # fmt: skip
ADDRESSES = [
    ("127.0.0.1", 80), ("127.0.0.1", 0), ("127.0.0.1", 65535), ("::1", 80), ("::1", 80, 0, 0),
    ("fe80::1", 80, 0, 1), ("fe80::1%lo", 80, 0, 0), ("127.0.0.1", 80, 0, 0), ("::1", 80, 1 << 21),
    ("127.1", 80), ("nonesuch", 80), ("", 80), (None, 80), ("127.0.0.1",), (), ("127.0.0.1", "80"),
    ("127.0.0.1", 80, 0, 0, 0), ("127.0.0.1", 65536), ("127.0.0.1", -1), ["127.0.0.1", 80], "x",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES, ids=repr)
def test_getnameinfo(run, address):
    def outcome(function, *args):
        try:
            return function(*args)
        except Exception as error:
            return type(error), error.args

    async def main():
        loop = asyncio.get_running_loop()
        for flags in NAME_FLAGS:
            if not flags & socket.NI_NUMERICHOST and "::1" not in address[:1]:
                continue  # others would be looked up in DNS
            expected = outcome(socket.getnameinfo, address, flags)
            try:
                got = await loop.getnameinfo(address, flags)
            except Exception as error:
                got = type(error), error.args
            assert got == expected, flags
            assert type(got) is type(expected)

    run(main())


def test_getnameinfo_by_keyword_and_with_bad_flags(run):
    async def main():
        loop = asyncio.get_running_loop()
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        expected = ("127.0.0.1", "80")
        assert await loop.getnameinfo(sockaddr=("127.0.0.1", 80), flags=numeric) == expected
        with pytest.raises(TypeError):
            await loop.getnameinfo(("127.0.0.1", 80), "text")
        with pytest.raises(TypeError):
            await loop.getnameinfo(("127.0.0.1", 80), None)

    run(main())


# ---------------------------------------------------------------- states of the loop


def test_after_the_executor_was_shut_down(run):
    async def main():
        loop = asyncio.get_running_loop()
        await loop.shutdown_default_executor()
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
                await loop.getaddrinfo(host, 80)
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            await loop.getnameinfo(("127.0.0.1", 80), 3)

    run(main())


def test_on_a_closed_loop(flavour):
    loop = flavour.new_loop()
    loop.close()
    for coroutine in (loop.getaddrinfo("127.0.0.1", 80), loop.getnameinfo(("127.0.0.1", 80), 3)):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            coroutine.send(None)


def test_cancelled_lookup(run, monkeypatch):
    answered = threading.Event()

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args: answered.wait(10))
        task = asyncio.ensure_future(loop.getaddrinfo("localhost", 80))
        await asyncio.sleep(0)
        task.cancel()
        answered.set()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(main())


def test_many_at_once(run):
    async def main():
        loop = asyncio.get_running_loop()
        hosts = ["localhost", "127.0.0.1", "::1", None] * 25
        answers = await asyncio.gather(*[loop.getaddrinfo(host, 80) for host in hosts])
        for host, entries in zip(hosts, answers, strict=True):
            assert entries == socket.getaddrinfo(host, 80)

    run(main())


def test_common_queries(run):
    async def main():
        loop = asyncio.get_running_loop()
        for arguments in (
            ("127.0.0.1", 80),
            ("127.0.0.1", "80"),
            ("::1", 443),
            ("localhost", 22),
            (None, 0),
        ):
            ours = await loop.getaddrinfo(*arguments, type=socket.SOCK_STREAM)
            assert ours == socket.getaddrinfo(*arguments, type=socket.SOCK_STREAM)
        with pytest.raises(socket.gaierror) as caught:
            await loop.getaddrinfo("127.0.0.1", "no such service")
        with pytest.raises(socket.gaierror) as expected:
            socket.getaddrinfo("127.0.0.1", "no such service")
        assert caught.value.args == expected.value.args

    run(main())


def test_getnameinfo_of_a_literal(run):
    async def main():
        loop = asyncio.get_running_loop()
        flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        return await loop.getnameinfo(("127.0.0.1", 80), flags)

    assert run(main()) == ("127.0.0.1", "80")
