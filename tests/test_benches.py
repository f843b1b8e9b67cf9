"""The benchmark suite reports what goes wrong instead of timing it."""

import shutil

import pytest

from benches import faulty, process  # noqa: F401
from benches.load_generator import Loadgen
from benches.outcome import Outcome, Series
from benches.report import amount, cell
from benches.workload import WORKLOADS


def run(name, loadgen=None, limit=20.0):
    return process.run(WORKLOADS[name], "asyncio", 0.1, limit, loadgen, "wall")


@pytest.mark.parametrize(
    ("name", "failure", "detail"),
    [
        ("faulty-count", "wrong result", "9 operations seen instead of 10"),
        ("faulty-crash", "crash", "SIGABRT"),
        ("faulty-missing", "missing", "no such thing"),
        ("faulty-error", "error", "nothing there"),
    ],
)
def test_failure_is_reported(name, failure, detail):
    outcome = run(name)
    assert (outcome.value, outcome.failure) == (None, failure)
    assert detail in outcome.detail


def test_hang_is_reported():
    assert run("faulty-hang", limit=1.0).failure == "hang"


@pytest.mark.skipif(shutil.which("cargo") is None, reason="no Rust to build the load generator")
@pytest.mark.timeout(300)
def test_wrong_replies_are_reported():
    loadgen = Loadgen.build()
    assert run("faulty-echo", loadgen).failure == "wrong result"
    assert run("faulty-close", loadgen).failure == "error"


def test_ratios_pair_the_rounds():
    series = Series("spawn")
    for ours, theirs in [(1.0, 4.0), (2.0, 4.0), (1.0, 3.0)]:
        series.add("ferroloop", Outcome(value=ours))
        series.add("uvloop", Outcome(value=theirs))
    ratios = series.ratios("ferroloop", "uvloop")
    assert ratios is not None
    assert (ratios.median, ratios.spread) == (3.0, (2.0, 4.0))
    assert cell(series, "ferroloop", "ns", "uvloop") == "1 ns · 3.00x (2.00-4.00)"
    series.add("ferroloop", Outcome(failure="crash", detail="SIGSEGV"))
    assert cell(series, "ferroloop", "ns", "uvloop") == "crash"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (231.4, "ns", "231 ns"),
        (1234.0, "ns", "1.23 µs"),
        (51.3e6, "ns", "51.3 ms"),
        (2e9, "ns", "2 s"),
        (455.2, "bytes", "455 B"),
        (20480.0, "bytes", "20.0 KiB"),
    ],
)
def test_amounts(value, unit, text):
    assert amount(value, unit) == text
