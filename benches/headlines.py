"""Copies a few rows of RESULTS.md into the project's README: `python -m benches.headlines`."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: python -m benches.headlines -->\n", "<!-- end of figures -->\n"

# A few rows for each kind of work, regardless of their ratios.
WORKLOADS = (
    *("call-soon-chain", "timers-cancel", "spawn", "sleep-zero", "gather"),
    *("executor-sequential", "executor-64", "tcp-protocol-1k-1", "tcp-protocol-1k-10"),
    *("tcp-streams-1k-10", "udp-1k-10", "tls-protocol-1k-10"),
    *("process-spawn", "memory-task"),
)


def rows(results: str) -> dict[str, tuple[str, str, str, str]]:
    """Map each workload to its title and the cells of ferroloop, uvloop and asyncio."""
    pattern = re.compile(r"^\| (.*?) \(`([\w-]+)`\) \| (.*?) \| (.*?) \| (.*?) \|", re.M)
    return {
        found[2]: (found[1], found[3], found[4], found[5]) for found in pattern.finditer(results)
    }


def cost(cell: str) -> str:
    """A cell without its ratio."""
    return cell.partition(" · ")[0]


def ratio(cell: str) -> str:
    """The ratio of a cell, in the median round."""
    return cell.partition(" · ")[2].partition(" ")[0] or "-"


def figures(results: str) -> str:
    """The table, with the machine and the date of the measurement."""
    known = rows(results)
    facts = dict(re.findall(r"^- (\w+): (.*)$", results, re.M))
    lines = [
        "| one operation | ferroloop | uvloop | asyncio | vs. uvloop |",
        "|---|---|---|---|---|",
    ]
    for name in WORKLOADS:
        title, ours, uvloop, asyncio = known[name]
        cells = (cost(ours), cost(uvloop), cost(asyncio), ratio(ours))
        lines.append(f"| {title} (`{name}`) | {' | '.join(cells)} |")
    measured = f"{facts['Date']}, {facts['Machine']}, CPython {facts['Python'].split()[0]}"
    return "\n".join([*lines, "", f"Measured {measured}; {facts['Method']}.", ""])


def with_figures(readme: str, results: str) -> str:
    """Return the README with the figures of these results."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}{figures(results)}{END}{after}"


if __name__ == "__main__":
    results = (ROOT / "benches" / "RESULTS.md").read_text()
    README.write_text(with_figures(README.read_text(), results))
