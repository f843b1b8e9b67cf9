"""TLS with programs not written in Python: the openssl tool, curl and nginx.

A test is skipped only where its program is not installed.
"""

import asyncio
import contextlib
import shutil
import socket
import ssl
import time

import pytest

from ..support.certificates import HOST, authority, certificate, client_context
from ..support.protocols import Recorder
from ..support.tls import Server

BIG = bytes(range(256)) * 2000


def needs(program):
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    return pytest.mark.skipif(found is None, reason=f"{program} is not installed")


@pytest.fixture
def files(tmp_path):
    """Paths of the authority's certificate, the server's chain and its key."""
    authority().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    good = certificate("good")
    chain = b"".join(blob.bytes() for blob in good.cert_chain_pems)
    (tmp_path / "chain.pem").write_bytes(chain)
    good.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    return tmp_path


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.asynccontextmanager
async def program(*command):
    """A child process with pipes, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def connected(port, protocol=Recorder, context=None, **options):
    """A TLS connection to a program that may need a moment to listen."""
    loop = asyncio.get_running_loop()
    end = time.monotonic() + 10
    while True:
        try:
            return await loop.create_connection(
                protocol,
                "127.0.0.1",
                port,
                ssl=context or client_context(),
                server_hostname=HOST,
                **options,
            )
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.02)


@needs("openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_client(run, files, version):
    async def main():
        async with Server() as server:
            host, port = server.address
            command = ["openssl", "s_client", "-connect", f"{host}:{port}", version, "-quiet"]
            command += ["-servername", HOST, "-verify_return_error", "-CAfile", files / "ca.pem"]
            async with program(*command) as process:
                process.stdin.write(b"hello\n")
                await process.stdin.drain()
                while line := await process.stdout.readline():
                    if line == b"hello\n":
                        break
                assert line == b"hello\n"
                process.terminate()
                await process.wait()
            await server.protocols[0].done

    run(main())


@needs("openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_server(run, files, version):
    async def main():
        port = free_port()
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-rev", "-quiet"]
        command += [version, "-cert", files / "chain.pem", "-key", files / "key.pem"]
        command += ["-cert_chain", files / "chain.pem"]
        async with program(*command):
            transport, client = await connected(port)
            transport.write(b"hello\n")
            await client.until(lambda: client.received == b"olleh\n")
            transport.close()
            await client.done

    run(main())


@needs("openssl")
def test_renegotiation_while_reading_is_paused(run, files):
    """Writing continues: the handshake does not need a reader."""
    hellos = []

    async def main():
        port = free_port()
        # Without -quiet, which would treat its commands as data.
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_2"]
        command += ["-cert", files / "chain.pem", "-key", files / "key.pem"]
        context = client_context(version=ssl.TLSVersion.TLSv1_2)
        async with program(*command) as process:

            def message(connection, direction, version, content, kind, data):
                # The reply to the server's request, which is read before reading is paused.
                if direction == "write" and getattr(kind, "name", "") == "CLIENT_HELLO":
                    hellos.append(kind)
                    if len(hellos) == 2:
                        transport.pause_reading()

            context._msg_callback = message
            transport, client = await connected(port, context=context)
            process.stdin.write(b"r\n")
            async with asyncio.timeout(20):
                while len(hellos) < 2:
                    await asyncio.sleep(0.005)
            seen = b""
            number = 0
            while b"line 3" not in seen:
                number += 1
                transport.write(b"line %d\n" % number)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        seen += await process.stdout.read(4096)
            assert not transport.is_reading()
            assert seen.index(b"line 1") < seen.index(b"line 2") < seen.index(b"line 3")
            assert transport.get_write_buffer_size() == 0
            # The garbage collector cannot see the references of a context.
            context._msg_callback = None
            transport.abort()
            await client.done

    run(main())


class Page(Recorder):
    """Answers every request with BIG and closes."""

    def data_received(self, data):
        super().data_received(data)
        if self.received.endswith(b"\r\n\r\n"):
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BIG)
            self.transport.write(head)
            self.transport.write(BIG)
            self.transport.close()


@needs("curl")
def test_curl(run, files):
    async def main():
        async with Server(protocol=Page) as server:
            host, port = server.address
            command = ["curl", "--silent", "--show-error", "--cacert", files / "ca.pem"]
            command += ["--resolve", f"{HOST}:{port}:{host}", f"https://{HOST}:{port}/"]
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            output, errors = await process.communicate()
            assert (process.returncode, errors) == (0, b"")
            assert output == BIG
            assert await server.protocols[0].done is None

    run(main())


@needs("nginx")
def test_nginx(run, files):
    (files / "page").write_bytes(BIG)
    port = free_port()
    (files / "nginx.conf").write_text(f"""
        daemon off;
        master_process off;
        pid {files}/pid;
        error_log stderr error;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {files}/body;
            proxy_temp_path {files}/proxy;
            fastcgi_temp_path {files}/fastcgi;
            uwsgi_temp_path {files}/uwsgi;
            scgi_temp_path {files}/scgi;
            server {{
                listen 127.0.0.1:{port} ssl;
                ssl_certificate {files}/chain.pem;
                ssl_certificate_key {files}/key.pem;
                root {files};
            }}
        }}
        """)

    async def main():
        binary = shutil.which("nginx") or "/usr/sbin/nginx"
        async with program(binary, "-p", files, "-c", files / "nginx.conf"):
            transport, client = await connected(port)
            for _ in range(2):
                client.received.clear()
                transport.write(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await client.until(lambda: client.received.endswith(BIG))
                assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
            assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
            transport.close()
            await client.done

    run(main())
