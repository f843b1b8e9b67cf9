"""The programs: what each one tests and needs."""

import importlib.metadata
from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """A module of `programs`, with its entry in the table."""

    name: str
    title: str
    packages: tuple[str, ...]
    services: tuple[str, ...] = ()
    quick: bool = False

    def versions(self) -> str:
        """The installed versions of the packages under test."""
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.packages)


PROGRAMS = (
    Program(
        "uvicorn_one_worker",
        "uvicorn --loop, one worker: httptools, h11, WebSockets, TLS",
        ("uvicorn", "httptools", "h11", "starlette"),
        quick=True,
    ),
    Program(
        "uvicorn_workers",
        "uvicorn --loop --workers 3: spread requests, replace a killed worker",
        ("uvicorn", "httptools", "starlette"),
        quick=True,
    ),
    Program(
        "gunicorn_uvicorn_workers",
        "gunicorn with uvicorn workers: forked workers, reload by SIGHUP",
        ("gunicorn", "uvicorn-worker", "uvicorn"),
    ),
    Program(
        "servers_by_name",
        "The commands of docs/SERVERS.md: gunicorn with three worker classes, granian ...",
        ("gunicorn", "uvicorn-worker", "hypercorn", "granian", "aiohttp"),
    ),
    Program(
        "dask_cluster",
        "Dask: scheduler, workers and client in processes on the loop; a worker is killed",
        ("distributed", "dask"),
    ),
    Program(
        "hypercorn_server",
        "hypercorn: HTTP/1.1, HTTP/2 over TLS, WebSockets",
        ("hypercorn", "h2", "wsproto", "httpx"),
    ),
    Program(
        "fastapi_application",
        "FastAPI on uvicorn: dependencies, threads, background tasks, WebSockets",
        ("fastapi", "starlette", "pydantic", "uvicorn", "anyio"),
    ),
    Program(
        "starlette_test_client",
        "Starlette's TestClient: application and portal on the loop",
        ("starlette", "anyio", "httpx"),
    ),
    Program(
        "aiohttp_server_client",
        "aiohttp server and client: streams, files, TLS, WebSockets, UNIX sockets, timeouts",
        ("aiohttp", "yarl", "multidict"),
        quick=True,
    ),
    Program(
        "https_large_bodies",
        "aiohttp, uvicorn and streams: bodies of up to 20 MB over HTTPS to a client that pauses",
        ("aiohttp", "uvicorn", "httptools"),
        quick=True,
    ),
    Program(
        "aiohttp_run_app",
        "aiohttp.web.run_app by `python -m ferroloop`: graceful end by SIGTERM",
        ("aiohttp",),
    ),
    Program(
        "httpx_client",
        "httpx: pools, streams, timeouts, cancellation, TLS",
        ("httpx", "httpcore", "anyio"),
        quick=True,
    ),
    Program(
        "websockets_server_client",
        "websockets server and client: compression, broadcast, keepalive, close codes",
        ("websockets",),
        quick=True,
    ),
    Program(
        "tornado_server_client",
        "Tornado: HTTP server and client, WebSockets, streams, executors",
        ("tornado",),
    ),
    Program(
        "grpc_aio",
        "grpc.aio: the four kinds of call, deadlines, cancellation, metadata",
        ("grpcio",),
    ),
    Program(
        "asyncpg_postgresql",
        "asyncpg: pool, transactions, COPY, LISTEN/NOTIFY, cancelled queries",
        ("asyncpg",),
        services=("postgresql",),
    ),
    Program(
        "psycopg_postgresql",
        "psycopg (async): pool, pipelines, COPY, notifications, cancelled queries",
        ("psycopg", "psycopg-pool"),
        services=("postgresql",),
    ),
    Program(
        "redis_asyncio",
        "redis-py (asyncio): pipelines, publish/subscribe, blocking commands, UNIX socket",
        ("redis",),
        services=("redis",),
    ),
    Program(
        "anyio_primitives",
        "anyio: task groups, threads, portals, sockets, TLS, processes, signals",
        ("anyio",),
        quick=True,
    ),
    Program(
        "pytest_asyncio_suite",
        "pytest-asyncio: a suite whose loop comes from its hook",
        ("pytest-asyncio", "pytest"),
        quick=True,
    ),
    Program(
        "ipython_await",
        "IPython: top-level await",
        ("ipython",),
    ),
    Program(
        "ipykernel_await",
        "ipykernel: top-level await, background tasks, interrupts",
        ("ipykernel", "jupyter-client", "pyzmq", "tornado", "ipython"),
    ),
    Program(
        "nest_asyncio_nested",
        "nest_asyncio: run_until_complete inside a running loop",
        ("nest-asyncio",),
    ),
    Program(
        "pyinstaller_frozen",
        "PyInstaller: a frozen program with streams, pool, processes, signals, diagnostics",
        ("pyinstaller",),
    ),
    Program(
        "nest_asyncio2_nested",
        "nest_asyncio2: run_until_complete inside a running loop",
        ("nest-asyncio2",),
    ),
    Program(
        "opentelemetry_tracing",
        "OpenTelemetry (asyncio, threading): parents of spans, request after request",
        (
            "opentelemetry-sdk",
            "opentelemetry-instrumentation-asyncio",
            "opentelemetry-instrumentation-threading",
        ),
    ),
    Program(
        "sentry_tracing",
        "Sentry (asyncio, threading): tags of events, spans, request after request",
        ("sentry-sdk",),
    ),
    Program(
        "ddtrace_tracing",
        "ddtrace (asyncio, futures): parents of spans, request after request",
        ("ddtrace",),
    ),
)
