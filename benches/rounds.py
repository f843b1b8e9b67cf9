"""One round of one workload: a fresh process for each loop; the processes are measured in turns.

The speed of a machine changes from one second to the next by more than loops differ. So the
processes of a round exist side by side, all but one asleep, and each turn is short: the figures
that are compared come from nearly the same time.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from benches.contender import Conditions, Contender
from benches.outcome import Outcome
from benches.workload import Workload

#: seconds of one turn: a disturbance affects few of many turns, and not their median
TURN = 0.05
#: turns of each process, at least, however long a turn takes
LEAST_TURNS = 3
#: seconds of the only turn of a process that gives one figure: it does not stay young for long
YOUTH = 0.5


def run(workload: Workload, loops: list[str], conditions: Conditions) -> dict[str, Outcome]:
    """The outcome of each loop; a failing loop is an outcome, not an exception."""
    if workload.together:
        return _compete(workload, loops, conditions)
    outcomes = {}
    for loop in loops:
        # Its turns have no corresponding turns of other loops.
        alone = _compete(workload, [loop], conditions)[loop]
        outcomes[loop] = replace(alone, turns=())
    return outcomes


def _compete(workload: Workload, loops: list[str], conditions: Conditions) -> dict[str, Outcome]:
    with ExitStack() as stack:
        contenders = []
        for loop in loops:
            contender = Contender(workload, loop, conditions)
            stack.callback(contender.close)
            contender.start()
            contenders.append(contender)
        if workload.percentage:
            # The same for all of them, so that the slowest one is half busy.
            interval = 2 * max(contender.cost_at_full_load() for contender in contenders)
            for contender in contenders:
                contender.measure_latency(interval)
        for seconds in _turns(workload, conditions.seconds, len(loops)):
            for contender in contenders:
                contender.take_turn(seconds)
            if all(contender.failure for contender in contenders):
                break
            # Alternating order, so that no process always runs after the same other one.
            contenders.reverse()
        return {contender.loop: contender.finish() for contender in contenders}


def _turns(workload: Workload, seconds: float, processes: int) -> Iterator[float]:
    """The length of each turn until the processes have used up their time."""
    if workload.once:
        yield min(YOUTH, seconds)
        return
    deadline = time.monotonic() + seconds * processes
    taken = 0
    while taken < LEAST_TURNS or time.monotonic() < deadline:
        yield min(TURN, seconds / LEAST_TURNS)
        taken += 1
