"""The worker classes for gunicorn, without gunicorn: `make ecosystem` runs the real ones."""

import asyncio
import importlib
import sys
import types

import ferroloop
import pytest

# What the classes use of their bases.
BASES = {
    "uvicorn_worker": ("UvicornWorker", {"CONFIG_KWARGS": {"loop": "auto", "http": "auto"}}),
    "gunicorn.workers.gasgi": ("ASGIWorker", {}),
    "aiohttp.worker": (
        "GunicornWebWorker",
        {"init_process": lambda self: setattr(self, "loop", asyncio.new_event_loop())},
    ),
}


@pytest.fixture
def workers(monkeypatch):
    for module, (name, members) in BASES.items():
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            parent = ".".join(parts[:count])
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        setattr(sys.modules[module], name, type(name, (), members))
    found = importlib.import_module("ferroloop.gunicorn")
    yield found
    for name in list(vars(found)):
        if name.endswith("Worker"):
            delattr(found, name)
    ferroloop.uninstall()


def test_uvicorn(workers):
    assert workers.UvicornWorker.CONFIG_KWARGS == {
        "loop": "ferroloop:new_event_loop",
        "http": "auto",
    }
    assert workers.UvicornWorker is workers.UvicornWorker
    assert repr(workers.UvicornWorker) == "<class 'ferroloop.gunicorn.UvicornWorker'>"


def test_the_others_make_our_loops(workers):
    ours = workers.AsgiWorker()
    ours._setup_event_loop()
    theirs = workers.AiohttpWorker()
    theirs.init_process()
    asyncio.set_event_loop(None)
    for worker in (ours, theirs):
        assert isinstance(worker.loop, ferroloop.EventLoop)
        worker.loop.close()


def test_other_names(workers):
    with pytest.raises(AttributeError, match=r"'ferroloop\.gunicorn' has no attribute 'Worker'"):
        workers.Worker  # noqa: B018
