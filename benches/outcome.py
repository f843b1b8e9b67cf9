"""The outcome of one run, and the figures computed from all runs of a workload."""

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """The outcome of one process: a cost per operation, or a failure."""

    value: float | None = None
    #: crash, hang, missing, wrong result, error
    failure: str = ""
    detail: str = ""
    #: the cost in each turn of its round; empty if the process ran alone
    turns: tuple[float, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is a figure."""
        return self.value is not None

    def ratio(self, baseline: "Outcome") -> float | None:
        """The baseline's cost divided by this one: the median over corresponding turns."""
        if self.value is None or baseline.value is None:
            return None
        costs = [(self.value, baseline.value)]
        if self.turns and len(self.turns) == len(baseline.turns):
            costs = [*zip(self.turns, baseline.turns, strict=True)]
        ratios = [theirs / ours for ours, theirs in costs if ours > 0]
        return statistics.median(ratios) if ratios else None


@dataclass
class Ratios:
    """The baseline's cost divided by a loop's, round by round: above 1 the loop is better."""

    pairs: list[float]

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.pairs)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest round."""
        return min(self.pairs), max(self.pairs)


@dataclass
class Series:
    """All outcomes of one workload: a list with one outcome per round for each loop."""

    workload: str
    rounds: dict[str, list[Outcome]] = field(default_factory=dict)

    def add(self, loop: str, outcome: Outcome) -> None:
        """Append `loop`'s next round."""
        self.rounds.setdefault(loop, []).append(outcome)

    def failure(self, loop: str) -> Outcome | None:
        """The first failure of `loop`, if it ever failed; one failure is enough to report."""
        return next((o for o in self.rounds.get(loop, []) if not o.ok), None)

    def cost(self, loop: str) -> float | None:
        """Median cost of one operation."""
        values = [o.value for o in self.rounds.get(loop, []) if o.value is not None]
        return statistics.median(values) if values else None

    def ratios(self, loop: str, baseline: str) -> Ratios | None:
        """Ratios over the rounds that both loops finished."""
        rounds = zip(self.rounds.get(loop, []), self.rounds.get(baseline, []), strict=False)
        ratios = [ours.ratio(theirs) for ours, theirs in rounds]
        pairs = [ratio for ratio in ratios if ratio is not None]
        return Ratios(pairs) if pairs else None
