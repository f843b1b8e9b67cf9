"""Saves figures to a JSON file and loads them; of several files the later ones take precedence."""

import json
from dataclasses import asdict
from pathlib import Path

from benches.outcome import Outcome, Series
from benches.workload import all_workloads


def save(path: Path, facts: dict[str, str], loops: list[str], table: list[Series]) -> None:
    """Save every outcome of every round."""
    workloads = {
        series.workload: {
            loop: [asdict(outcome) for outcome in outcomes]
            for loop, outcomes in series.rounds.items()
        }
        for series in table
    }
    document = {"facts": facts, "loops": loops, "workloads": workloads}
    path.write_text(json.dumps(document, indent=1) + "\n")


def load(paths: list[Path]) -> tuple[dict[str, str], list[str], list[Series]]:
    """The union of saved runs; all must come from one Python and the same versions."""
    facts: dict[str, str] = {}
    loops: list[str] = []
    merged: dict[str, Series] = {}
    for path in paths:
        document = json.loads(path.read_text())
        for name in ("Machine", "Python", *document["loops"]):
            if facts.get(name, document["facts"].get(name)) != document["facts"].get(name):
                raise SystemExit(f"{path}: another {name} than the files before it")
        facts |= document["facts"]
        loops += [loop for loop in document["loops"] if loop not in loops]
        for name, rounds in document["workloads"].items():
            series = Series(name)
            for loop, outcomes in rounds.items():
                for outcome in outcomes:
                    # Files of older versions have no turns.
                    turns = tuple(outcome.pop("turns", ()))
                    series.add(loop, Outcome(**outcome, turns=turns))
            merged[name] = series
    table = [merged[workload.name] for workload in all_workloads() if workload.name in merged]
    return facts, loops, table
