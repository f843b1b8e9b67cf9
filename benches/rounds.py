"""One round of one workload: a fresh process for each loop, which are measured in turns.

A machine changes its speed from one second to the next, more than loops differ. So the processes
of a round live side by side, all but one asleep, and each turn is short: what is compared happened
at nearly the same time.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from benches.contender import Conditions, Contender
from benches.outcome import Outcome
from benches.workload import Workload

#: seconds; a disturbance spoils few of many turns, which their median doesn't mind
TURN = 0.05
#: however long a turn takes, each process has so many
LEAST_TURNS = 3
#: seconds; nothing stays young for long
YOUTH = 0.5


def run(workload: Workload, loops: list[str], conditions: Conditions) -> dict[str, Outcome]:
    """Outcome of each loop; never raises for what a loop does."""
    if workload.together:
        return _compete(workload, loops, conditions)
    outcomes = {}
    for loop in loops:
        # What it did in its turns is nobody's counterpart.
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
        for seconds in _turns(workload, conditions.seconds, len(loops)):
            for contender in contenders:
                contender.take_turn(seconds)
            if all(contender.failure for contender in contenders):
                break
            # There and back, so that nobody always comes after the same other.
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
