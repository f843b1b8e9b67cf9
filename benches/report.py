"""The table in text and Markdown, and RESULTS.md."""

import os
from pathlib import Path

from benches import chart, results
from benches.outcome import Series
from benches.workload import WORKLOADS, Unit, Workload

#: the page that says how to read the results
README = Path(__file__).resolve().parent / "README.md"


def amount(value: float, unit: Unit) -> str:
    """A cost with three significant digits and a suitable unit."""
    if unit == "bytes":
        return f"{value:.0f} B" if value < 10_000 else f"{value / 1024:.1f} KiB"
    for limit, divisor, suffix in ((1e3, 1, "ns"), (1e6, 1e3, "µs"), (1e9, 1e6, "ms")):
        if value < limit:
            scaled = value / divisor
            return f"{scaled:.0f} {suffix}" if scaled >= 100 else f"{scaled:.3g} {suffix}"
    return f"{value / 1e9:.3g} s"


def cell(series: Series, loop: str, unit: Unit, baseline: str) -> str:
    """A loop's cost and its ratio to the baseline, or how it failed."""
    if failure := series.failure(loop):
        return failure.failure
    cost = series.cost(loop)
    if cost is None:
        return "not run"
    text = amount(cost, unit)
    ratios = series.ratios(loop, baseline)
    if loop == baseline or ratios is None:
        return text
    low, high = ratios.spread
    return f"{text} · {ratios.median:.2f}x ({low:.2f}-{high:.2f})"


def line(workload: Workload, series: Series, loops: list[str], baseline: str) -> str:
    """A workload's figures for the progress output."""
    cells = [f"{loop} {cell(series, loop, workload.unit, baseline)}" for loop in loops]
    return f"{workload.name}: " + "; ".join(cells)


def rows(loops: list[str], table: list[Series], baseline: str) -> list[list[str]]:
    """Head and body of the table as text cells."""
    body = []
    for series in table:
        workload = WORKLOADS[series.workload]
        cells = [cell(series, loop, workload.unit, baseline) for loop in loops]
        body.append([workload.name, *cells])
    return [["workload", *loops], *body]


def table(loops: list[str], table: list[Series], baseline: str) -> str:
    """Aligned columns for the terminal, then a line for each failure."""
    cells = rows(loops, table, baseline)
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines + failures(loops, table))


def failures(loops: list[str], table: list[Series]) -> list[str]:
    """One line per loop and workload that has no figure."""
    return [
        f"{series.workload}, {loop}: {failure.failure}: {failure.detail}"
        for series in table
        for loop in loops
        if (failure := series.failure(loop))
    ]


def write(
    directory: Path,
    facts: dict[str, str],
    loops: list[str],
    table: list[Series],
    baseline: str,
    note: str,
) -> None:
    """Write RESULTS.md and results.svg to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    text = ["# Results", ""]
    text += [f"- {name}: {value}" for name, value in facts.items()]
    text += ["", *([note, ""] if note else [])]
    text += [
        "Each cell has the cost of one operation (median of the rounds), then the cost on",
        f"{baseline} divided by it in the same round: the median of the rounds, with "
        "the lowest and",
        f"the highest round in brackets. Above 1 is better than {baseline}.",
        f"[README.md]({os.path.relpath(README, directory)}) says how to run the benchmarks, how to",
        "read the tables and what a round is.",
        "",
        f"![Ratio to {baseline} per workload](results.svg)",
    ]
    groups: dict[str, list[Series]] = {}
    for series in table:
        groups.setdefault(WORKLOADS[series.workload].group, []).append(series)
    for group, members in groups.items():
        text += ["", f"## {group.capitalize()}", ""]
        text += ["| workload | " + " | ".join(loops) + " |", "|---" * (len(loops) + 1) + "|"]
        for series in members:
            workload = WORKLOADS[series.workload]
            cells = [cell(series, loop, workload.unit, baseline) for loop in loops]
            text.append(f"| {workload.title} (`{workload.name}`) | " + " | ".join(cells) + " |")
    if words := failures(loops, table):
        text += ["", "## No figure", "", *[f"- {words_}" for words_ in words]]
    page = "\n".join(text) + "\n"
    (directory / "RESULTS.md").write_text(page)
    (directory / "results.svg").write_text(chart.draw(results.read(page)))
