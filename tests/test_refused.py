"""A sample of the sweep in `refused/`: system calls fail, and nothing is lost, leaked or stuck."""

import pytest

from .refused import sweep

SEED = 1
RUNS = 120


@pytest.mark.skipif(not sweep.is_possible(), reason="there is no C compiler, or no Linux")
@pytest.mark.timeout(180)
def test_calls_that_fail():
    wrong = []
    counts = sweep.Counts()
    for fault, result in sweep.sweep("ferroloop", SEED, [], float("inf"), RUNS):
        counts.add(fault, result)
        if result["wrong"]:
            wrong.append(f"{sweep.describe(fault)}: {result['wrong']}: {fault}")
    assert not wrong, "\n".join(wrong)
    assert counts.runs == RUNS
    assert counts.met > RUNS * 0.8
