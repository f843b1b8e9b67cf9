"""A sample of the sweep of `refused/`: system calls fail, and nothing is lost, left or stuck."""

import pytest

from .refused import sweep

SEED = 1
RUNS = 120


@pytest.mark.skipif(not sweep.is_possible(), reason="there is no C compiler, or no Linux")
@pytest.mark.timeout(180)
def test_calls_that_fail():
    wrong = []
    counts = sweep.Counts()
    for order, result in sweep.sweep("ferroloop", SEED, [], float("inf"), RUNS):
        counts.add(order, result)
        if result["wrong"]:
            wrong.append(f"{sweep.shown(order)}: {result['wrong']}: {order}")
    assert not wrong, "\n".join(wrong)
    assert counts.runs == RUNS
    assert counts.met > RUNS * 0.8
