"""What the SSL object of a connection may be and do: classes with methods of their own, objects that
delegate, methods that are replaced.
"""

import asyncio
import ssl

import pytest

from ..support.certificates import client_context, server_context
from ..support.protocols import Recorder
from ..support.tls import Server, closed, nothing_left


@pytest.mark.parametrize("side", ["client", "server"])
def test_getpeercert_is_asked_when_the_handshake_is_done(run, side):
    """A class that pins certificates must be able to refuse one."""
    calls = []

    class Pinned(ssl.SSLObject):
        def getpeercert(self, binary_form=False):
            calls.append(binary_form)
            raise ssl.SSLCertVerificationError("not the pinned one")

    async def main():
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
        contexts = {"client": client_context(), "server": server_context()}
        contexts[side].sslobject_class = Pinned
        async with Server(contexts["server"]) as server:
            if side == "client":
                with pytest.raises(ssl.SSLCertVerificationError, match="not the pinned one"):
                    await server.connect(contexts["client"])
                await nothing_left()
            else:
                # TLS 1.3 lets the client believe that it is connected.
                transport, client = await server.connect(contexts["client"])
                await client.done
                assert client.received == b""
                # The application of the server has never heard of it.
                assert server.protocols[0].calls == []
        assert calls == [False]

    run(main())


def test_an_undecodable_certificate_fails_the_handshake(run):
    async def main():
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
        async with Server(server_context("undecodable")) as server:
            with pytest.raises(ssl.SSLError) as error:
                await server.connect()
            assert not isinstance(error.value, ssl.CertificateError)
            # Whoever does not look at it is served.
            context = client_context(check_hostname=False, verify_mode=ssl.CERT_NONE)
            transport, client = await server.connect(context)
            assert transport.get_extra_info("peercert") == {}
            transport.close()
            await client.done
            await nothing_left()

    run(main())


def test_extra_information_is_that_of_the_handshake(run):
    """Asked once, also if the object would answer something else later."""
    answers = {"getpeercert": 0, "cipher": 0, "compression": 0}

    def counting(name):
        def method(self):
            answers[name] += 1
            return answers[name]

        return method

    counted = type("Counted", (ssl.SSLObject,), {name: counting(name) for name in answers})

    async def main():
        context = client_context(sslobject_class=counted)
        async with Server() as server:
            transport, client = await server.connect(context)
            assert answers == dict.fromkeys(answers, 1)
            transport.close()
            await closed(client, server.protocols[0])
            for name in ("peercert", "cipher", "compression"):
                assert transport.get_extra_info(name) == 1
            assert isinstance(transport.get_extra_info("ssl_object"), counted)
            assert transport.get_extra_info("sslcontext") is context
        assert answers == dict.fromkeys(answers, 1)

    run(main())


@pytest.mark.parametrize("name", ["cipher", "compression"])
def test_other_questions_may_fail_too(run, name):
    def method(self):
        raise ValueError(f"no {name}")

    broken = type("Broken", (ssl.SSLObject,), {name: method})

    async def main():
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
        async with Server() as server:
            with pytest.raises(ValueError, match=f"no {name}"):
                await server.connect(client_context(sslobject_class=broken))
            await nothing_left()
        # In debug mode the server's side is reported as well.
        assert reports[0]["message"] == "Fatal error: protocol.buffer_updated() call failed."

    run(main())
