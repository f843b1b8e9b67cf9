"""The benchmark suite reports failures instead of timing them, and compares like with like."""

import itertools
import json
import os
import shutil
import signal

import pytest

from benches import chart, faulty, loops, report, results, rounds, store  # noqa: F401
from benches.contender import Conditions, Contender
from benches.load_generator import Loadgen
from benches.outcome import Outcome, Series
from benches.report import amount, cell
from benches.workload import WORKLOADS
from benches.workloads import echo, memory, processes, tasks  # noqa: F401


def conditions(loadgen=None, limit=20.0, clock="wall"):
    return Conditions(seconds=0.1, limit=limit, clock=clock, loadgen=loadgen)


def run(name, *options, **named):
    return rounds.run(WORKLOADS[name], ["asyncio"], conditions(*options, **named))["asyncio"]


@pytest.fixture(scope="module")
def loadgen():
    if shutil.which("cargo") is None:
        pytest.skip("no Rust to build the load generator")
    return Loadgen.build()


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


@pytest.mark.timeout(300)
def test_wrong_replies_are_reported(loadgen):
    assert run("faulty-echo", loadgen).failure == "wrong result"
    assert run("faulty-close", loadgen).failure == "error"


@pytest.mark.timeout(300)
def test_a_server_that_dies_leaves_the_round_to_the_others(loadgen):
    loops = ["ferroloop", "asyncio"]
    outcomes = rounds.run(WORKLOADS["faulty-mortal"], loops, conditions(loadgen))
    assert outcomes["ferroloop"] == Outcome(failure="crash", detail="SIGABRT")
    assert outcomes["asyncio"].ok
    assert len(outcomes["asyncio"].turns) >= rounds.LEAST_TURNS


def test_a_hang_leaves_the_round_to_the_others():
    loops = ["asyncio", "ferroloop"]
    outcomes = rounds.run(WORKLOADS["faulty-hang-later"], loops, conditions(limit=2.0))
    assert outcomes["ferroloop"].failure == "hang"
    assert outcomes["asyncio"].ok
    assert len(outcomes["asyncio"].turns) >= rounds.LEAST_TURNS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["tcp-protocol-1k-1", "diary"])
def test_death_between_turns_is_a_crash(name, loadgen, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DIARY", str(tmp_path / "diary"))
    for last_turn in (False, True):
        contender = Contender(WORKLOADS[name], "asyncio", conditions(loadgen))
        try:
            contender.start()
            contender.take_turn(0.02)
            assert contender.failure is None
            os.kill(contender.pid, signal.SIGKILL)
            if not last_turn:
                contender.take_turn(0.02)
            assert contender.finish() == Outcome(failure="crash", detail="SIGKILL")
        finally:
            contender.close()


def test_loops_take_turns_and_never_run_at_the_same_time(tmp_path, monkeypatch):
    diary = tmp_path / "diary"
    monkeypatch.setenv("BENCH_DIARY", str(diary))
    outcomes = rounds.run(WORKLOADS["diary"], ["asyncio", "ferroloop"], conditions())
    assert len(outcomes["asyncio"].turns) == len(outcomes["ferroloop"].turns)
    lines = [line.split() for line in diary.read_text().splitlines()]
    samples = [(who, int(begin), int(end)) for who, _, begin, end in lines]
    assert all(end <= begin for (_, _, end), (_, begin, _) in itertools.pairwise(samples))
    # The warm-up of each, then forwards and backwards.
    order = [who for who, _ in itertools.groupby(who for who, _, _ in samples)]
    assert order[:4] == ["asyncio", "other"] * 2


@pytest.mark.timeout(300)
def test_a_turn_ends_when_the_server_has_dealt_with_it(loadgen, tmp_path, monkeypatch):
    diary = tmp_path / "diary"
    monkeypatch.setenv("BENCH_DIARY", str(diary))
    contender = Contender(WORKLOADS["slow-to-close"], "asyncio", conditions(loadgen))
    try:
        contender.start()
        contender.take_turn(0.02)
        assert contender.failure is None
        assert "connection_lost" in diary.read_text()
    finally:
        contender.close()


@pytest.mark.timeout(300)
def test_processor_time_of_servers_and_others(loadgen, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DIARY", str(tmp_path / "diary"))
    # A sample of the diary sleeps for 20 ms.
    assert run("diary", clock="wall").value > 2e6
    assert 0 < run("diary", clock="cpu").value < 2e6
    assert run("tcp-protocol-1k-10", loadgen, clock="cpu").value > 0


@pytest.mark.timeout(300)
def test_times_of_replies_and_idle_connections(loadgen):
    assert 1e6 < run("slow", loadgen).value < 1e9
    # Most of what its process does is to open and to close the connections.
    outcome = run("tcp-protocol-1k-idle-1000", loadgen)
    assert 0 < outcome.value < 1e6, outcome


def test_what_has_one_figure_to_give_gets_one_turn_alone():
    assert run("faulty-twice").ok
    alone = ("memory-task", "memory-idle-tls", "tls-protocol-1k-10-young", "process-spawn-2g")
    assert not any(WORKLOADS[name].together for name in alone)
    assert WORKLOADS["tls-protocol-1k-10"].together
    assert run("memory-future").turns == ()


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


def test_ratios_pair_the_turns_of_a_round():
    # The machine slows down after the second turn; uvloop is disturbed in the first.
    ours = Outcome(value=4.0, turns=(1.0, 1.0, 4.0, 4.0, 4.0))
    theirs = Outcome(value=8.0, turns=(9.0, 2.0, 8.0, 8.0, 8.0))
    assert ours.ratio(theirs) == 2.0
    assert ours.ratio(Outcome(value=2.0)) == 0.5
    assert ours.ratio(Outcome(failure="crash")) is None
    assert Outcome(value=0.0).ratio(theirs) is None


def test_the_written_results_can_be_read_and_drawn(tmp_path):
    series = Series("spawn")
    for ours, theirs in ((500.0, 1000.0), (500.0, 1250.0), (500.0, 1500.0)):
        series.add("ferroloop", Outcome(value=ours))
        series.add("uvloop", Outcome(value=theirs))
        series.add("rloop", Outcome(failure="crash", detail="SIGSEGV"))
    names = ["ferroloop", "uvloop", "rloop"]
    report.write(tmp_path, {"Python": "3.13.0 (cpython)"}, names, [series], "uvloop", "")
    read = results.read((tmp_path / "RESULTS.md").read_text())
    assert (read.baseline, read.loops, read.facts["Python"]) == (
        "uvloop",
        names,
        "3.13.0 (cpython)",
    )
    (row,) = read.rows
    assert (row.name, row.group) == ("spawn", WORKLOADS["spawn"].group.capitalize())
    assert row.cells["ferroloop"] == results.Cell("500 ns", (2.5, 2.0, 3.0))
    assert row.cells["rloop"] == results.Cell("crash", None)
    drawn = (tmp_path / "results.svg").read_text()
    assert drawn == chart.draw(read)
    assert "ferroloop 2.50x" in drawn
    assert chart.draw_bars(read, ("spawn",)).count("2.5x") == 1


def test_labels_of_charts_are_not_cut_off():
    for workload in WORKLOADS.values():
        assert all(len(line) <= chart.LABEL for line in chart._lines_of(workload.title))


def test_every_loop_has_a_name_a_colour_and_a_version():
    assert set(chart.COLOURS) == set(loops.KNOWN)
    assert loops.version_of("asyncio") == "standard library"
    assert not loops.is_installed("asyncio+nothing")
    assert loops.is_installed("asyncio+json")
    with pytest.raises(ValueError, match="no such loop: asyncio\\+json"):
        loops.new_event_loop_of("asyncio+json")


def test_saved_runs_are_read_again(tmp_path):
    path = tmp_path / "run.json"
    series = Series("spawn", {"asyncio": [Outcome(value=2.0, turns=(1.0, 2.0, 3.0))]})
    facts = {"Machine": "this", "Python": "3", "asyncio": "standard library"}
    store.save(path, facts, ["asyncio"], [series])
    document = json.loads(path.read_text())
    assert store.load([path]) == (facts, ["asyncio"], [series])
    # From before turns were recorded.
    del document["workloads"]["spawn"]["asyncio"][0]["turns"]
    path.write_text(json.dumps(document))
    assert store.load([path])[2][0].rounds == {"asyncio": [Outcome(value=2.0)]}


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
