"""How debug mode shows callbacks of transports, and where warnings about unclosed ones point."""

import asyncio
import gc
import inspect
import linecache
import re
import socket
import time
import warnings
from pathlib import Path

import pytest

from ..support.certificates import client_context, server_context


class Acting(asyncio.Protocol, asyncio.DatagramProtocol):
    """Sleeps, or raises, in the named callbacks."""

    def __init__(self, slow=(), faulty=()):
        self.slow, self.faulty = slow, faulty

    def act(self, name):
        if name in self.slow:
            time.sleep(0.03)
        if name in self.faulty:
            raise ValueError(name)

    def connection_made(self, transport):
        self.transport = transport
        self.act("made")

    def data_received(self, data):
        self.act("data")

    def datagram_received(self, data, address):
        self.act("data")

    def eof_received(self):
        self.act("eof")

    def resume_writing(self):
        self.act("resume")

    def connection_lost(self, exception):
        self.act("lost")


async def use_stream(loop, protocol):
    ours, peer = socket.socketpair()
    with peer:
        peer.setblocking(False)
        transport, _ = await loop.create_unix_connection(lambda: protocol, sock=ours)
        transport.set_write_buffer_limits(high=0)
        transport.write(bytes(4_000_000))
        received = 0
        while received < 4_000_000:
            received += len(await loop.sock_recv(peer, 1_000_000))
        await loop.sock_sendall(peer, b"x")
        await asyncio.sleep(0.01)
        transport.close()
        await asyncio.sleep(0.06)


async def use_pipes(loop, protocol):
    ours, peer = socket.socketpair()
    reader, _ = await loop.connect_read_pipe(lambda: protocol, ours)
    writer, _ = await loop.connect_write_pipe(Acting, peer)
    writer.write(b"x")
    await asyncio.sleep(0.01)
    reader.close()
    writer.close()
    await asyncio.sleep(0.06)


async def use_datagrams(loop, protocol):
    transport, _ = await loop.create_datagram_endpoint(
        lambda: protocol, local_addr=("127.0.0.1", 0)
    )
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    await asyncio.sleep(0.01)
    transport.close()
    await asyncio.sleep(0.06)


USES = {"stream": use_stream, "pipe": use_pipes, "datagram": use_datagrams}


def shape(text):
    """`text` without what differs from run to run. File names are not compared: asyncio shows its
    own Python line below the caller's, a native loop only the caller's."""
    # asyncio cancels a handle whose own callback stops watching the descriptor.
    text = text.replace("<Handle cancelled ", "<Handle ")
    text = re.sub(r"created at \S+\.py:\d+", "created at FILE", text)
    text = re.sub(r"<_\w+[^>]*\.\.\.[^>]*>+", "<TRANSPORT>", text)
    return re.sub(r"took \d\.\d+ seconds", "took T seconds", text)


def method(transport, name):
    """The name that asyncio shows, which depends on the version."""
    names = [name, "_write_sendmsg"]
    found = [getattr(CLASSES[transport], each, None) for each in names]
    return next(each.__qualname__ for each in found if each)


# Outside debug mode, from 3.13 on.
HIDES_ARGUMENTS = (
    "debug" in inspect.signature(asyncio.format_helpers._format_callback_source).parameters
)

CLASSES = {
    "stream": asyncio.selector_events._SelectorSocketTransport,
    "pipe": asyncio.unix_events._UnixReadPipeTransport,
    "datagram": asyncio.selector_events._SelectorDatagramTransport,
}


@pytest.mark.mode("debug")
@pytest.mark.parametrize("transport", USES)
@pytest.mark.parametrize("name", ["made", "data", "resume", "lost"])
def test_slow_callbacks_of_transports(loop, log, transport, name):
    if name == "resume" and transport != "stream":
        return  # nothing to resume
    loop.slow_callback_duration = 0.02
    loop.run_until_complete(USES[transport](loop, Acting(slow=[name])))
    shown = {
        "made": "Acting.connection_made(<TRANSPORT>)",
        "data": f"{method(transport, '_read_ready')}()",
        "resume": f"{method(transport, '_write_ready')}()" if name == "resume" else "",
        "lost": f"{method(transport, '_call_connection_lost')}(None)",
    }[name]
    messages = [shape(text) for text in log.messages() if text.startswith("Executing <Handle")]
    # On a busy machine there may be other reports.
    assert f"Executing <Handle {shown} created at FILE> took T seconds" in messages


@pytest.mark.parametrize("transport", USES)
@pytest.mark.parametrize("name", ["made", "lost"])
def test_failing_callbacks_of_transports(loop, transport, name):
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    loop.run_until_complete(USES[transport](loop, Acting(faulty=[name])))
    loop.set_exception_handler(None)
    (context,) = reported
    reported.clear()
    shown = {
        "made": "Acting.connection_made(<TRANSPORT>)",
        "lost": f"{method(transport, '_call_connection_lost')}(None)",
    }[name]
    handle = context["handle"]
    if not loop.get_debug() and HIDES_ARGUMENTS:
        shown = re.sub(r"\(.*", "()", shown)
    assert shape(context["message"]) == f"Exception in callback {shown}"
    created = " created at FILE" if loop.get_debug() else ""
    assert shape(repr(handle)) == f"<Handle {shown}{created}>"
    assert isinstance(handle, asyncio.Handle)
    callback = handle._callback
    assert callback.__name__ == {"made": "connection_made", "lost": "_call_connection_lost"}[name]
    assert callback.__self__ is not None
    if loop.get_debug():
        assert list(context) == ["message", "exception", "handle", "source_traceback"]
        assert context["source_traceback"] is handle._source_traceback
        assert context["source_traceback"][-1].lineno > 0
    else:
        assert list(context) == ["message", "exception", "handle"]
    context.clear()


@pytest.mark.mode("debug")
@pytest.mark.parametrize("name", ["made", "data", "lost"])
def test_traceback_of_the_handle_that_runs(loop, log, name):
    """The default handler shows where the callback that caused the report was scheduled."""

    class Reporting(Acting):
        def act(self, what):
            if what == name:
                loop.call_exception_handler({"message": "reported"})

    loop.run_until_complete(use_stream(loop, Reporting()))
    (message,) = [text for text in log.messages() if text.startswith("reported")]
    assert message.splitlines()[:2] == [
        "reported",
        "handle_traceback: Handle created at (most recent call last):",
    ]
    assert re.search(r'File ".+", line \d+, in ', message)


def unclosed(loop, kind):
    """Creates a transport of this kind and drops it without closing it."""

    async def main():
        ours, peer = socket.socketpair()
        peer.setblocking(False)
        if kind == "stream":
            await loop.create_unix_connection(asyncio.Protocol, sock=ours)
        elif kind == "read pipe":
            await loop.connect_read_pipe(asyncio.Protocol, ours)
        elif kind == "write pipe":
            await loop.connect_write_pipe(asyncio.Protocol, ours)
        else:
            ours.close()
            await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
            )
        await asyncio.sleep(0)
        peer.close()

    loop.run_until_complete(main())


PLACES = {
    "stream": asyncio.selector_events,
    "datagram": asyncio.selector_events,
    "read pipe": asyncio.unix_events,
    "write pipe": asyncio.unix_events,
}


@pytest.mark.parametrize("kind", PLACES)
def test_warnings_of_unclosed_transports_name_the_module(flavour, kind):
    def drop_unclosed():
        loop = flavour.new_loop()
        unclosed(loop, kind)
        loop.close()
        del loop
        gc.collect()

    place = PLACES[kind]
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        drop_unclosed()
    (warning,) = [w for w in caught if "unclosed transport" in str(w.message)]
    assert warning.category is ResourceWarning
    assert Path(warning.filename) == Path(place.__file__)
    line = linecache.getline(warning.filename, warning.lineno).strip()
    assert line == '_warn(f"unclosed transport {self!r}", ResourceWarning, source=self)'
    assert warning.source is not None
    del warning
    caught.clear()
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        warnings.filterwarnings(
            "ignore", category=ResourceWarning, module=re.escape(place.__name__) + "$"
        )
        drop_unclosed()
    assert [str(w.message) for w in caught if "unclosed transport" in str(w.message)] == []


def test_warnings_of_unclosed_tls_transports_name_the_module(flavour):
    async def main(loop):
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=server_context())
        address = server.sockets[0].getsockname()
        await loop.create_connection(
            asyncio.Protocol, *address, ssl=client_context(), server_hostname="localhost"
        )
        server.close()

    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        loop = flavour.new_loop()
        loop.run_until_complete(main(loop))
        loop.close()
        del loop
        gc.collect()
    found = [w for w in caught if "_SSLProtocolTransport" in str(w.message)]
    assert found
    for warning in found:
        assert Path(warning.filename) == Path(asyncio.sslproto.__file__)
        line = linecache.getline(warning.filename, warning.lineno).strip()
        assert line == "_warnings.warn("
    del warning
    found.clear()
    caught.clear()
    gc.collect()
