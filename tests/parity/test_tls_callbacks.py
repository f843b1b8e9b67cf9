"""Callbacks of OpenSSL into Python after the handshake."""

import asyncio
import ssl

from ..support.certificates import client_context, server_context
from ..support.tls import Server, closed


def once_quiet():
    """A client's context, whose callback for messages removes itself with the first one."""
    context = client_context()

    def first(*message):
        context._msg_callback = None

    context._msg_callback = first
    return context


def test_a_callback_for_messages_that_comes_back(run):
    """The SSL object calls the one that its context has at the time."""
    seen = []

    async def main():
        context = once_quiet()
        async with Server() as server:
            transport, client = await server.connect(context)
            context._msg_callback = lambda *message: seen.append(message[1])
            transport.write(b"x")
            await client.until(lambda: client.received == b"x")
            assert set(seen) == {"read", "write"}
            context._msg_callback = None
            transport.close()
            await closed(client, *server.protocols)

    run(main())


def test_an_exception_of_a_callback_for_messages_that_comes_back(run):
    async def main():
        context = once_quiet()
        reports = []

        def refuse(*message):
            context._msg_callback = None
            raise ValueError("no message")

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, report: reports.append(report))
        async with Server() as server:
            transport, client = await server.connect(context)
            context._msg_callback = refuse
            transport.write(b"x")
            reason = await client.done
            assert (type(reason), reason.args) == (ValueError, ("no message",))
            assert [report["message"] for report in reports] == ["Fatal error on SSL protocol"]
            await closed(*server.protocols)

    run(main())


def test_the_server_asks_for_a_certificate_after_the_handshake(run):
    """Of TLS 1.3: by the SSL object, between writes of the transport."""

    async def main():
        context = server_context(verify_mode=ssl.CERT_OPTIONAL)
        context.post_handshake_auth = True
        mine = client_context("client")
        mine.post_handshake_auth = True
        async with Server(context) as server:
            transport, client = await server.connect(mine)
            transport.write(b"one")
            await client.until(lambda: client.received == b"one")
            (served,) = server.protocols
            sslobject = served.transport.get_extra_info("ssl_object")
            assert not sslobject.getpeercert()
            sslobject.verify_client_post_handshake()
            served.transport.write(b"two" * 20_000)
            transport.write(b"three")
            await client.until(lambda: len(client.received) == 60_008)
            assert sslobject.getpeercert()["subjectAltName"] == (("email", "client@example.org"),)
            transport.write(b"four")
            await client.until(lambda: client.received.endswith(b"four"))
            transport.close()
            await closed(client, served)

    run(main())
