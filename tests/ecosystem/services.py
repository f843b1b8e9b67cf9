"""Private PostgreSQL and Redis servers: in a temporary directory, removed after the block."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .servers import free_port, serving

PACKAGES = {"postgresql": "postgresql", "redis": "redis-server"}


def missing(service: str) -> str | None:
    """The Debian package to install for a missing service."""
    program = _postgresql("initdb") if service == "postgresql" else shutil.which("redis-server")
    return None if program else PACKAGES[service]


def _postgresql(program: str) -> str | None:
    """The path of a PostgreSQL server program; Debian keeps them out of PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=_major)
    return str(versions[-1]) if versions else shutil.which(program)


def _major(path: Path) -> float:
    return float(path.parent.parent.name)


@dataclass(frozen=True)
class Server:
    """Where a service listens: a port of 127.0.0.1 and a UNIX socket."""

    port: int
    directory: str
    socket: str


@contextlib.contextmanager
def _directory() -> Iterator[tuple[str, dict[str, str]]]:
    """A directory for a service, and the user to run it as: PostgreSQL refuses to run as root."""
    # Not under $TMPDIR, whose path may be too long for a UNIX socket.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="eco-") as directory:
        account = {}
        if os.geteuid() == 0:
            unprivileged = pwd.getpwnam("nobody")
            os.chown(directory, unprivileged.pw_uid, unprivileged.pw_gid)
            account = {"user": "nobody", "group": unprivileged.pw_gid, "extra_groups": []}
        yield directory, account


@contextlib.contextmanager
def postgresql() -> Iterator[Server]:
    """A fresh cluster; superuser `eco` without a password, database `postgres`."""
    with _directory() as (directory, account):
        data = f"{directory}/data"
        initdb = [_postgresql("initdb"), "--no-sync", "--auth=trust", "--username=eco"]
        subprocess.run(
            [*initdb, "--encoding=UTF8", "--locale=C", "--pgdata", data],
            check=True,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd=directory,
            **account,
        )
        port = free_port()
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": directory,
            "fsync": "off",
            # The log is discarded: the programs notice what goes wrong.
            "log_min_messages": "panic",
            "log_min_error_statement": "panic",
        }
        command = [_postgresql("postgres"), "-D", data]
        command += [f"--{name}={value}" for name, value in settings.items()]
        ask = [_postgresql("pg_isready"), "--quiet", f"--host={directory}", f"--port={port}"]
        with serving(
            command,
            ("127.0.0.1", port),
            # While starting up it accepts connections only to reject them.
            ready=lambda: subprocess.run(ask, check=False).returncode == 0,
            end=signal.SIGINT,
            quiet=True,
            cwd=directory,
            **account,
        ):
            yield Server(port, directory, f"{directory}/.s.PGSQL.{port}")


@contextlib.contextmanager
def redis() -> Iterator[Server]:
    """An empty server without persistence."""
    with _directory() as (directory, account):
        port, socket = free_port(), f"{directory}/redis.sock"
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port)]
        command += ["--unixsocket", socket, "--save", "", "--dir", directory]
        with serving(command, ("127.0.0.1", port), quiet=True, cwd=directory, **account):
            yield Server(port, directory, socket)
