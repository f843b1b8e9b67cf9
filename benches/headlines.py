"""Draws the charts, and writes the project's README a few figures: `python -m benches.headlines`.

All of it is made from the files RESULTS.md, so nothing is measured.
"""

from pathlib import Path

from benches import chart
from benches.results import Results, read

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CHART = ROOT / "benches" / "headlines.svg"
RESULTS = ROOT / "benches" / "RESULTS.md"
OTHER_RESULTS = sorted((ROOT / "benches").glob("cpython-*/RESULTS.md"))
BEGIN, END = "<!-- figures: python -m benches.headlines -->\n", "<!-- end of figures -->\n"

# The end of the title of a row in which the other loops do less.
ALONE = "(ferroloop only)"

# A dozen rows, for each kind of work, regardless of their ratios.
WORKLOADS = (
    *("call-soon-chain", "timers-cancel", "spawn", "gather", "executor-64"),
    *("tcp-protocol-1k-10", "tcp-streams-1k-10", "udp-1k-10", "tls-protocol-1k-10"),
    *("aiohttp", "process-spawn", "memory-task"),
)


def version(results: Results) -> str:
    """The version of Python, such as 3.13."""
    return ".".join(results.facts["Python"].split(".")[:2])


def slower(path: Path, results: Results) -> str:
    """The rows in which another loop was faster in every round."""
    others = [loop for loop in results.loops if loop != "ferroloop"]
    # What another loop does not do cannot be compared.
    compared = [row for row in results.rows if not row.title.endswith(ALONE)]
    rows = [(row.title, row.faster()) for row in compared]
    behind = [
        f'"{title}"' + (f" ({', '.join(loops)})" if len(others) > 1 else "")
        for title, loops in rows
        if loops
    ]
    page = f"[CPython {version(results)}]({path.relative_to(ROOT).as_posix()})"
    words = ", ".join(behind) or "none"
    return f"* {page}, {len(results.rows)} rows, compared with {', '.join(others)}: {words}."


def figures(by_path: dict[Path, Results]) -> str:
    """The chart, the machine and the date of the measurement, and the rows that are not ours."""
    results = by_path[RESULTS]
    facts = results.facts
    measured = f"{facts['Date']}, {facts['Machine']}, CPython {facts['Python'].split()[0]}"
    chart_words = f"Speed of a dozen workloads, as a ratio to {results.baseline}"
    return "\n".join(
        [
            f"![{chart_words}]({CHART.relative_to(ROOT).as_posix()})",
            "",
            f"Measured {measured}; {facts['Method']}.",
            "",
            "In these rows another loop was faster in every round:",
            "",
            *(slower(path, results) for path, results in by_path.items()),
            "",
        ]
    )


def with_figures(readme: str, by_path: dict[Path, Results]) -> str:
    """Return the README with the figures of these results."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}{figures(by_path)}{END}{after}"


def files() -> dict[Path, str]:
    """Every file that is made from the results, with its contents."""
    by_path = {path: read(path.read_text()) for path in (RESULTS, *OTHER_RESULTS)}
    made = {path.parent / "results.svg": chart.draw(results) for path, results in by_path.items()}
    made[CHART] = chart.draw_bars(by_path[RESULTS], WORKLOADS)
    made[README] = with_figures(README.read_text(), by_path)
    return made


if __name__ == "__main__":
    for path, contents in files().items():
        path.write_text(contents)
