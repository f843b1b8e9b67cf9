"""Unusual SSL objects of a connection: subclasses with overridden methods, objects that delegate,
replaced methods.
"""

import asyncio
import ssl

import pytest

from ..support.certificates import authority, client_context, server_context
from ..support.programs import run_program
from ..support.protocols import BufferedRecorder, Recorder
from ..support.tls import Server, closed, nothing_left


@pytest.mark.parametrize("side", ["client", "server"])
def test_getpeercert_is_called_after_the_handshake(run, side):
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
                # With TLS 1.3 the client believes that it is connected.
                transport, client = await server.connect(contexts["client"])
                await client.done
                assert client.received == b""
                # The server's application is never notified of the connection.
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
            # A client that does not inspect it is served.
            context = client_context(check_hostname=False, verify_mode=ssl.CERT_NONE)
            transport, client = await server.connect(context)
            assert transport.get_extra_info("peercert") == {}
            transport.close()
            await client.done
            await nothing_left()

    run(main())


def test_extra_information_is_read_at_the_handshake(run):
    """Read once, even if the object would return something else later."""
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
def test_other_methods_may_fail_too(run, name):
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


class Delegating:
    """Defines none of the methods, but delegates to an SSL object."""

    def __init__(self, target, calls):
        self.target = target
        self.calls = calls

    def __getattr__(self, name):
        self.calls.add(name)
        return getattr(self.target, name)


def context_of(wrap):
    """A client's context whose `wrap_bio()` returns `wrap(SSL object)`."""

    class Context(ssl.SSLContext):
        def wrap_bio(self, *args, **options):
            return wrap(super().wrap_bio(*args, **options))

    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


async def exchange(server, context=None, protocol=Recorder):
    """Some data there and back, in several records."""
    transport, client = await server.connect(context, protocol)
    for size in (1, 2000):
        data = bytes(range(256)) * size
        transport.write(data)
        total = len(client.received) + len(data)
        await client.until(lambda total=total: len(client.received) == total)
        assert client.received[-len(data) :] == data
    transport.close()
    assert await client.done is None
    await server.protocols[-1].done


@pytest.mark.parametrize("protocol", [Recorder, BufferedRecorder])
def test_an_object_that_delegates(run, protocol):
    calls = set()

    async def main():
        async with Server() as server:
            await exchange(server, context_of(lambda o: Delegating(o, calls)), protocol)

    run(main())
    assert calls >= {"do_handshake", "getpeercert", "read", "write", "unwrap"}


@pytest.mark.parametrize("protocol", [Recorder, BufferedRecorder])
def test_methods_replaced_on_one_object(run, protocol):
    calls = set()

    def wrap(target):
        read, write = target.read, target.write
        target.read = lambda *args: (calls.add("read"), read(*args))[1]
        target.write = lambda data: (calls.add("write"), write(data))[1]
        return target

    async def main():
        async with Server() as server:
            await exchange(server, context_of(wrap), protocol)

    run(main())
    assert calls == {"read", "write"}


def test_methods_replaced_on_the_class_of_an_open_connection(run, monkeypatch):
    calls = []
    read, write = ssl.SSLObject.read, ssl.SSLObject.write

    def counted_read(self, *args):
        calls.append("read")
        return read(self, *args)

    def counted_write(self, data):
        calls.append(("write", len(data)))
        return write(self, data)

    async def main():
        async with Server() as server:
            transport, client = await server.connect()
            transport.write(b"before")
            await client.until(lambda: client.received == b"before")
            assert calls == []
            with monkeypatch.context() as patch:
                patch.setattr(ssl.SSLObject, "read", counted_read)
                patch.setattr(ssl.SSLObject, "write", counted_write)
                # In one piece, as asyncio passes it.
                transport.write(bytes(100_000))
                await client.until(lambda: len(client.received) == 100_006)
            assert ("write", 100_000) in calls
            assert "read" in calls
            calls.clear()
            transport.write(b"after")
            await client.until(lambda: client.received.endswith(b"after"))
            assert calls == []
            transport.close()
            await closed(client, *server.protocols)

    run(main())


def test_methods_replaced_before_the_first_connection(flavour):
    """Like instrumentation whose functions imitate those that they wrap."""
    status, out, errors = run_program(
        flavour,
        """
        import functools, ssl
        calls = set()
        def wrapped(function):
            @functools.wraps(function)
            def call(*args):
                calls.add(function.__name__)
                return function(*args)
            return call
        ssl.SSLObject.read = wrapped(ssl.SSLObject.read)
        ssl.SSLObject.write = wrapped(ssl.SSLObject.write)
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.getcwd())))
        from tests.support.tls import Server
        from tests.support.protocols import Recorder
        async def main():
            async with Server() as server:
                transport, client = await server.connect()
                transport.write(b"x")
                await client.until(lambda: client.received == b"x")
                transport.close()
                await client.done
                await server.protocols[0].done
        loop = new_event_loop()
        loop.slow_callback_duration = 60
        loop.run_until_complete(main())
        loop.close()
        print(sorted(calls))
        """,
    )
    assert (status, out, errors) == (0, "['read', 'write']\n", "")


def test_read_with_one_parameter_is_enough(run):
    """asyncio reads bytes unless the protocol is buffered."""

    class Narrow(ssl.SSLObject):
        def read(self, len):
            return super().read(len)

    async def main():
        async with Server() as server:
            await exchange(server, client_context(sslobject_class=Narrow))

    run(main())


@pytest.mark.parametrize("error", [ssl.SSLWantReadError, ssl.SSLSyscallError])
@pytest.mark.parametrize("method", ["read", "write"])
def test_spurious_want_read_and_want_write(run, method, error):
    """Held-back data is delivered with the next data."""
    armed = []

    class Asking(ssl.SSLObject):
        def read(self, *args):
            if method == "read" and armed:
                raise armed.pop()
            return super().read(*args)

        def write(self, data):
            if method == "write" and armed:
                raise armed.pop()
            return super().write(data)

    async def main():
        async with Server() as server:
            transport, client = await server.connect(client_context(sslobject_class=Asking))
            await nothing_left()
            armed.append(error())
            if method == "write":
                transport.write(b"one, ")
                assert transport.get_write_buffer_size() == 5
                await nothing_left()
                assert client.received == b""
                transport.write(b"two")
            else:
                server.protocols[0].transport.write(b"one, ")
                await nothing_left()
                assert client.received == b""
                server.protocols[0].transport.write(b"two")
            await client.until(lambda: client.received == b"one, two")
            assert transport.get_write_buffer_size() == 0
            transport.close()
            await closed(client, *server.protocols)

    run(main())


@pytest.mark.parametrize("method", ["read", "write"])
def test_exceptions_of_replaced_methods(run, method):
    armed = []

    class Failing(ssl.SSLObject):
        def read(self, *args):
            if method == "read" and armed:
                raise armed.pop()
            return super().read(*args)

        def write(self, data):
            if method == "write" and armed:
                raise armed.pop()
            return super().write(data)

    async def main():
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
        async with Server() as server:
            transport, client = await server.connect(client_context(sslobject_class=Failing))
            await nothing_left()
            error = ValueError("no more")
            armed.append(error)
            if method == "write":
                transport.write(b"data")
            else:
                server.protocols[0].transport.write(b"data")
            assert await client.done is error
            assert client.received == b""
            await server.protocols[0].done
        assert [report["message"] for report in reports] == ["Fatal error on SSL protocol"]
        assert reports[0]["exception"] is error

    run(main())


def test_a_base_exception_keeps_written_data(run):
    class Odd(BaseException):
        pass

    armed = []

    class Failing(ssl.SSLObject):
        def write(self, data):
            if armed:
                raise armed.pop()
            return super().write(data)

    async def main():
        async with Server() as server:
            transport, client = await server.connect(client_context(sslobject_class=Failing))
            armed.append(Odd())
            with pytest.raises(Odd):
                transport.write(b"one, ")
            transport.write(b"two")
            await client.until(lambda: client.received == b"one, two")
            transport.close()
            await closed(client, *server.protocols)

    run(main())


@pytest.mark.parametrize("claim", [4000, 1 << 40])
def test_the_count_claimed_by_read_is_ignored(run, claim):
    """A protocol without a buffer gets the data read, whatever count the method would return."""

    class Liar(ssl.SSLObject):
        def read(self, len=1024, buffer=None):
            if buffer is None:
                return super().read(len)
            return super().read(len, buffer) + claim

    async def main():
        async with Server() as server:
            await exchange(server, client_context(sslobject_class=Liar))

    run(main())


@pytest.mark.parametrize("claim", [3, 1 << 20, 1 << 70])
def test_the_count_claimed_by_write_is_capped(run, claim):
    class Liar(ssl.SSLObject):
        def write(self, data):
            return super().write(data) + claim

    async def main():
        async with Server() as server:
            transport, client = await server.connect(client_context(sslobject_class=Liar))
            transport.write(b"one, ")
            transport.writelines([b"two, ", b"three"])
            assert transport.get_write_buffer_size() == 0
            await client.until(lambda: client.received == b"one, two, three")
            transport.close()
            await closed(client, *server.protocols)

    run(main())


def test_a_partial_write(run):
    class Short(ssl.SSLObject):
        def write(self, data):
            return super().write(data[:1000])

    async def main():
        async with Server() as server:
            await exchange(server, client_context(sslobject_class=Short))

    run(main())


@pytest.mark.parametrize("answer", [None, "5", b""])
def test_a_non_integer_result_of_write(run, answer):
    class Odd(ssl.SSLObject):
        def write(self, data):
            super().write(data)
            return answer

    async def main():
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
        async with Server() as server:
            transport, client = await server.connect(client_context(sslobject_class=Odd))
            transport.write(b"data")
            assert type(await client.done) is TypeError
            await server.protocols[0].done
        assert [report["message"] for report in reports] == ["Fatal error on SSL protocol"]

    run(main())


# asyncio retries forever.
@pytest.mark.only("ferroloop")
def test_an_object_that_accepts_nothing(run):
    answers = [0, 0]

    class Slow(ssl.SSLObject):
        def write(self, data):
            return answers.pop() if answers else super().write(data)

    async def main():
        async with Server() as server:
            transport, client = await server.connect(client_context(sslobject_class=Slow))
            transport.write(b"one, ")
            transport.write(b"two, ")
            assert transport.get_write_buffer_size() == 10
            transport.write(b"three")
            await client.until(lambda: client.received == b"one, two, three")
            transport.close()
            await closed(client, *server.protocols)

    run(main())


@pytest.mark.only("ferroloop")  # asyncio encrypts the same data twice, the second time too late
def test_a_method_that_closes_the_connection(run):
    """Everything written is still sent."""
    armed = []

    class Closing(ssl.SSLObject):
        def write(self, data):
            if armed:
                armed.pop().close()
            return super().write(data)

    async def main():
        async with Server(protocol=Recorder) as server:
            transport, client = await server.connect(client_context(sslobject_class=Closing))
            armed.append(transport)
            transport.write(b"data")
            assert await closed(client, *server.protocols) == [None, None]
            assert server.protocols[0].received == b"data"

    run(main())


@pytest.mark.parametrize("method", ["read", "write"])
def test_a_method_that_aborts_the_connection(run, method):
    armed = []

    class Aborting(ssl.SSLObject):
        def read(self, *args):
            if method == "read" and armed:
                armed.pop().abort()
            return super().read(*args)

        def write(self, data):
            if method == "write" and armed:
                armed.pop().abort()
            return super().write(data)

    async def main():
        async with Server() as server:
            transport, client = await server.connect(client_context(sslobject_class=Aborting))
            await nothing_left()
            armed.append(transport)
            if method == "read":
                server.protocols[0].transport.write(b"data")
            else:
                transport.write(b"data" * 100_000)
            assert await client.done is None
            await server.protocols[0].done

    run(main())
