"""The charts, narrow enough for a phone: ratios to the baseline on a logarithmic axis."""

import math
from html import escape

from benches.results import Results, Row

COLOURS = {
    "ferroloop": "#c2410c",
    "uvloop": "#6b7280",
    "asyncio": "#2563eb",
    "rloop": "#16a34a",
    "zuvloop": "#9333ea",
    "uvloop+aiofastnet": "#0891b2",
    "asyncio+aiofastnet": "#db2777",
}
WIDTH = 480
MARGIN = 14
INK, FAINT, GREY = "#111827", "#e5e7eb", "#6b7280"
# The axis goes through the labels.
HALO = ' paint-order="stroke" stroke="white" stroke-width="3"'
#: longer labels continue on a second line
LABEL = 62


class _Axis:
    """Places ratios from `low` to `high` between the margins."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def x(self, ratio: float) -> float:
        """The place of a ratio; one that is out of range is put at the end."""
        share = math.log(min(max(ratio, self.low), self.high) / self.low)
        return MARGIN + share / math.log(self.high / self.low) * (WIDTH - 2 * MARGIN)

    def marks(self) -> list[float]:
        """The powers of two of the axis."""
        count = round(math.log2(self.high / self.low))
        return [self.low * 2**power for power in range(count + 1)]

    def lines(self, top: float, bottom: float) -> list[str]:
        """A vertical line for each mark."""
        return [
            f'<line x1="{self.x(mark):.1f}" y1="{top}" x2="{self.x(mark):.1f}" y2="{bottom}" '
            f'stroke="{GREY if mark == 1 else FAINT}"/>'
            for mark in self.marks()
        ]

    def labels(self, y: float) -> list[str]:
        """The names of the marks; those at the ends stay inside the chart."""
        anchors = {self.low: "start", self.high: "end"}
        places = {self.low: 2.0, self.high: WIDTH - 2.0}
        return [
            _text(
                places.get(mark, self.x(mark)),
                y,
                f"{mark:g}x",
                size=11,
                anchor=anchors.get(mark, "middle"),
                colour=GREY,
            )
            for mark in self.marks()
        ]


def _text(
    x: float,
    y: float,
    content: str,
    *,
    size: int = 13,
    anchor: str = "start",
    colour: str = INK,
    weight: str = "normal",
) -> str:
    bold = f' font-weight="{weight}"' if weight != "normal" else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{colour}"{bold}{HALO if colour == INK else ""}>{escape(content)}</text>'
    )


def _legend(results: Results, loops: list[str]) -> list[str]:
    shapes = []
    x = float(MARGIN + 5)
    for loop in loops:
        label = loop + (" = 1x" if loop == results.baseline else "")
        shapes.append(f'<circle cx="{x:.1f}" cy="16" r="5" fill="{COLOURS[loop]}"/>')
        shapes.append(_text(x + 10, 20, label, size=13))
        x += 32 + 7.5 * len(label)
    return shapes


def _document(height: float, body: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" font-family="system-ui, sans-serif">'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>'
    )
    return "\n".join([head, *body, "</svg>", ""])


def _lines_of(label: str) -> list[str]:
    """The label on one line or two."""
    if len(label) <= LABEL:
        return [label]
    space = label.rindex(" ", 0, LABEL)
    return [label[:space], label[space + 1 :]]


def _dots(row: Row, results: Results, axis: _Axis, y: float) -> list[str]:
    shapes = []
    # ferroloop last, so that it is drawn over the others.
    for loop in reversed(results.loops):
        ratio = row.cells[loop].ratio
        if loop == results.baseline or ratio is None:
            continue
        median, low, high = ratio
        shapes.append(
            f'<line x1="{axis.x(low):.1f}" y1="{y}" x2="{axis.x(high):.1f}" y2="{y}" '
            f'stroke="{COLOURS[loop]}" stroke-width="2" opacity="0.45"/>'
        )
        shapes.append(
            f'<circle cx="{axis.x(median):.1f}" cy="{y}" r="5" fill="{COLOURS[loop]}">'
            f"<title>{loop} {median:.2f}x</title></circle>"
        )
    return shapes


def draw(results: Results) -> str:
    """All workloads: one dot per loop, with its lowest and its highest round."""
    axis = _Axis(0.125, 8)
    body = _legend(results, results.loops)
    y = 26
    group = ""
    top = 0
    shapes: list[str] = []

    def end_group() -> None:
        body.extend(axis.lines(top, y) if group else [])
        body.extend(shapes)
        shapes.clear()

    for row in results.rows:
        if row.group != group:
            end_group()
            group = row.group
            shapes.append(_text(MARGIN, y + 28, group, size=15, weight="bold"))
            shapes += axis.labels(y + 48)
            y += 54
            top = y
        for line in _lines_of(row.title):
            y += 17
            shapes.append(_text(MARGIN, y, line))
        y += 11
        shapes += _dots(row, results, axis, y)
        y += 10
    end_group()
    return _document(y + 12, body)


def _bar(axis: _Axis, ratio: float, y: float, loop: str, height: int) -> str:
    left, right = sorted((axis.x(1), axis.x(ratio)))
    return (
        f'<rect x="{left:.1f}" y="{y}" width="{right - left:.1f}" height="{height}" '
        f'fill="{COLOURS[loop]}"/>'
    )


def draw_bars(results: Results, names: tuple[str, ...], other: str = "asyncio") -> str:
    """A few workloads: ferroloop and, if measured, another loop as bars from the baseline."""
    axis = _Axis(0.25, 16)
    by_name = {row.name: row for row in results.rows}
    body = _legend(results, ["ferroloop", results.baseline, other])
    body.append(_text(axis.x(1) + 6, 44, "better than " + results.baseline + " →", colour=GREY))
    y = top = 56
    shapes = []
    for name in names:
        row = by_name[name]
        shapes.append(_text(MARGIN, y + 14, row.title, size=14))
        for loop, height, offset in (("ferroloop", 13, 20), (other, 7, 35)):
            ratio = row.cells[loop].ratio if loop in row.cells else None
            if ratio is not None:
                shapes.append(_bar(axis, ratio[0], y + offset, loop, height))
        ours = row.cells["ferroloop"].ratio
        if ours is not None:
            end = axis.x(ours[0])
            inside = end > WIDTH - 60
            shapes.append(
                _text(
                    end - 6 if inside else max(end, axis.x(1)) + 6,
                    y + 31,
                    f"{ours[0]:.1f}x",
                    size=13,
                    anchor="end" if inside else "start",
                    colour="white" if inside else COLOURS["ferroloop"],
                    weight="bold",
                )
            )
        y += 50
    body += axis.lines(top, y)
    body += shapes
    body += axis.labels(y + 14)
    return _document(y + 24, body)
