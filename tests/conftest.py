"""Runs every test that asks for a loop on each flavour, and checks for leaks afterwards."""

import asyncio
import gc
import itertools
import logging
import signal
import sys
from collections.abc import Iterator

import pytest

from .support.flavours import Flavour, flavours
from .support.leaks import LogCatcher, Snapshot, watched_classes

LOOPS = ("asyncio", "ferroloop")
WAS_PASSED = pytest.StashKey[bool]()
FINISHED = itertools.count(1)


def pytest_configure():
    # A shell starts background jobs with SIGINT ignored, and `nohup` does so with SIGHUP. Children
    # inherit that, and some tests send them these signals.
    for number, default in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)


def pytest_addoption(parser):
    parser.addoption(
        "--loops",
        default=",".join(LOOPS),
        help="the implementations to run on, comma separated (default: %(default)s)",
    )


def pytest_generate_tests(metafunc):
    if "flavour" in metafunc.fixturenames:
        names = metafunc.config.getoption("--loops").split(",")
        tls = metafunc.module.__name__.rpartition(".")[2].startswith("test_tls")
        metafunc.parametrize("flavour", flavours(names, tls=tls), ids=str, indirect=True)


def pytest_collection_modifyitems(items):
    """A test marked `only("ferroloop")` or `only("asyncio")` runs on that implementation only;
    `mode("plain")` or `mode("debug")` restricts the mode."""
    kept = []
    for item in items:
        flavour = getattr(item, "callspec", None) and item.callspec.params.get("flavour")
        only, mode = item.get_closest_marker("only"), item.get_closest_marker("mode")
        if flavour and only and flavour.name not in only.args:
            continue
        if flavour and mode and ("debug" if flavour.debug else "plain") not in mode.args:
            continue
        kept.append(item)
    items[:] = kept


def pytest_collection_finish(session):
    # Create per-process singletons before the first leak check.
    for flavour in flavours(session.config.getoption("--loops").split(",")):
        flavour.run(asyncio.sleep(0.001))
    freeze_live_objects()


def freeze_live_objects():
    """Exempt everything alive now from garbage collection and leak checks. Otherwise pytest's
    accumulated reports would make each test slower than the last."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logfinish():
    if next(FINISHED) % 50 == 0:
        freeze_live_objects()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[WAS_PASSED] = report.passed
    return report


@pytest.fixture(autouse=True)
def leak_check(request):
    """Nothing may outlive a test that passed: see support/leaks.py. The value is the handler
    that catches records of the `asyncio` logger."""
    names = request.config.getoption("--loops").split(",")
    classes = watched_classes(__import__(name) for name in names)
    catcher = LogCatcher()
    logger = logging.getLogger("asyncio")
    level, propagate = logger.level, logger.propagate
    logger.propagate = False
    logger.addHandler(catcher)
    gc.collect()
    before = Snapshot(classes)
    try:
        yield catcher
    finally:
        passed = request.node.stash.get(WAS_PASSED, False)
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        if passed:
            assert running is None, f"{running!r} still counts as the running loop"
            request.node.funcargs.clear()  # finalized fixtures that are still referenced
            found = before.leaks() + catcher.unexpected()
        logger.removeHandler(catcher)
        logger.setLevel(level)
        logger.propagate = propagate
    if passed and found:
        pytest.fail("the test left something behind:\n  " + "\n  ".join(found), pytrace=False)


@pytest.fixture
def log(leak_check) -> LogCatcher:
    """Catches records of the `asyncio` logger; any record the test does not take fails it."""
    return leak_check


@pytest.fixture
def flavour(request) -> Iterator[Flavour]:
    """The loop implementation and its mode."""
    # Not the fixture: what a test changes by that is undone before its loop is closed.
    with pytest.MonkeyPatch.context() as environment:
        if request.param.tls_by_objects:
            environment.setenv("FERROLOOP_TLS", "objects")
        yield request.param


@pytest.fixture
def loop(flavour):
    """A fresh loop that is not set as any thread's current loop; closed after the test."""
    loop = flavour.new_loop()
    try:
        yield loop
    finally:
        if not loop.is_closed():
            assert not loop.is_running()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()


@pytest.fixture
def run(flavour):
    """A function that runs a coroutine as asyncio.run() does."""
    return flavour.run


@pytest.fixture
def unraisable(monkeypatch):
    """The calls of sys.unraisablehook, as (object, exception) pairs."""
    found = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda args: found.append((args.object, args.exc_value))
    )
    yield found
    found.clear()
