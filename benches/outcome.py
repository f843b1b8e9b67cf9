"""What came of one run, and the figures drawn from all runs of a workload."""

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """One process: a cost per operation, or the way it failed."""

    value: float | None = None
    #: crash, hang, missing, wrong result, error
    failure: str = ""
    detail: str = ""
    #: what it cost in each turn of its round; empty if it had the round for itself
    turns: tuple[float, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is a figure."""
        return self.value is not None

    def ratio(self, baseline: "Outcome") -> float | None:
        """Baseline's cost over this one: median over the turns, each with its counterpart."""
        if self.value is None or baseline.value is None:
            return None
        costs = [(self.value, baseline.value)]
        if self.turns and len(self.turns) == len(baseline.turns):
            costs = [*zip(self.turns, baseline.turns, strict=True)]
        ratios = [theirs / ours for ours, theirs in costs if ours > 0]
        return statistics.median(ratios) if ratios else None


@dataclass
class Ratios:
    """Baseline's cost over a loop's, round by round: above 1 the loop is ahead."""

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
    """All outcomes of one workload: loop name to its rounds, index = round."""

    workload: str
    rounds: dict[str, list[Outcome]] = field(default_factory=dict)

    def add(self, loop: str, outcome: Outcome) -> None:
        """Append `loop`'s next round."""
        self.rounds.setdefault(loop, []).append(outcome)

    def failure(self, loop: str) -> Outcome | None:
        """The first failure of `loop`, if it ever failed: one is enough to say so."""
        return next((o for o in self.rounds.get(loop, []) if not o.ok), None)

    def cost(self, loop: str) -> float | None:
        """Median cost of one operation."""
        values = [o.value for o in self.rounds.get(loop, []) if o.value is not None]
        return statistics.median(values) if values else None

    def ratios(self, loop: str, baseline: str) -> Ratios | None:
        """Ratios over the rounds that both finished."""
        rounds = zip(self.rounds.get(loop, []), self.rounds.get(baseline, []), strict=False)
        ratios = [ours.ratio(theirs) for ours, theirs in rounds]
        pairs = [ratio for ratio in ratios if ratio is not None]
        return Ratios(pairs) if pairs else None
