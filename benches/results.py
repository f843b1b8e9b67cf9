"""Reads RESULTS.md: the charts and the project's README are made from its tables."""

import re
from dataclasses import dataclass

_TABLE_HEAD = "| workload |"
_ROW = re.compile(r"\| (?P<title>.*?) \(`(?P<name>[\w-]+)`\) \| (?P<cells>.*) \|")
_CELL = re.compile(r"(?P<cost>.*?)(?: · ([\d.]+)x \(([\d.]+)-([\d.]+)\))?")
_FIGURE = re.compile(r"[\d.]+ \S+")


@dataclass(frozen=True)
class Cell:
    """What one loop has in a row."""

    cost: str
    #: the cost on the baseline divided by this one: median, lowest and highest round
    ratio: tuple[float, float, float] | None


@dataclass(frozen=True)
class Row:
    """A workload."""

    group: str
    name: str
    title: str
    cells: dict[str, Cell]

    def faster(self) -> list[str]:
        """The loops that were faster than ferroloop in every round."""
        ours = self.cells["ferroloop"].ratio
        return [
            loop
            for loop, cell in self.cells.items()
            if ours and cell.ratio and cell.ratio[1] > ours[2]
        ]


@dataclass(frozen=True)
class Results:
    """The contents of a RESULTS.md."""

    facts: dict[str, str]
    baseline: str
    loops: list[str]
    rows: list[Row]


def _cell(text: str, is_baseline: bool) -> Cell:
    found = _CELL.fullmatch(text)
    assert found is not None
    if is_baseline and _FIGURE.fullmatch(text):
        return Cell(text, (1.0, 1.0, 1.0))
    cost, *ratios = found.groups()
    median, low, high = (float(ratio) if ratio else None for ratio in ratios)
    if median is None or low is None or high is None:
        return Cell(cost, None)
    return Cell(cost, (median, low, high))


def read(text: str) -> Results:
    """Read the tables of a RESULTS.md."""
    facts = dict(re.findall(r"^- ([\w ]+): (.*)$", text.partition("\n## ")[0], re.M))
    baseline = re.findall(r"the cost on\s+(\S+)\s+divided", text)[0]
    loops: list[str] = []
    rows = []
    group = ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif line.startswith(_TABLE_HEAD):
            loops = line.removeprefix(_TABLE_HEAD).strip(" |").split(" | ")
        elif found := _ROW.fullmatch(line):
            texts = found["cells"].split(" | ")
            cells = {
                loop: _cell(text, loop == baseline) for loop, text in zip(loops, texts, strict=True)
            }
            rows.append(Row(group, found["name"], found["title"], cells))
    return Results(facts, baseline, loops, rows)
