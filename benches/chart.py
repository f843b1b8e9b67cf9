"""The chart: one dot per loop and workload on a logarithmic axis of ratios to the baseline."""

import math
from html import escape

from benches.outcome import Series
from benches.workload import WORKLOADS

COLOURS = {
    "ferroloop": "#c2410c",
    "uvloop": "#6b7280",
    "asyncio": "#2563eb",
    "rloop": "#16a34a",
    "zuvloop": "#9333ea",
    "uvloop+aiofastnet": "#0891b2",
    "asyncio+aiofastnet": "#db2777",
}
ROW = 18
LEFT = 420
WIDTH = 1000
RIGHT = 40
TOP = 56
LOW, HIGH = 0.125, 8.0


def _x(ratio: float) -> float:
    share = math.log(min(max(ratio, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _text(x: float, y: float, content: str, anchor: str = "start", colour: str = "#111827") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{content}</text>'


def _legend(loops: list[str], baseline: str) -> list[str]:
    shapes = []
    x = LEFT
    for loop in loops:
        colour = COLOURS[loop]
        shapes.append(f'<circle cx="{x}" cy="14" r="4.5" fill="{colour}"/>')
        label = loop + (" (= 1)" if loop == baseline else "")
        shapes.append(_text(x + 9, 18, label))
        x += 30 + 8 * len(label)
    return shapes


def _axis(bottom: float) -> list[str]:
    shapes = []
    for ratio in (0.125, 0.25, 0.5, 1, 2, 4, 8):
        x = _x(ratio)
        colour = "#6b7280" if ratio == 1 else "#e5e7eb"
        shapes.append(
            f'<line x1="{x:.1f}" y1="{TOP - 12}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}"/>'
        )
        shapes.append(_text(x, TOP - 16, f"{ratio:g}x", "middle", "#4b5563"))
    return shapes


def _row(series: Series, loops: list[str], baseline: str, y: float) -> list[str]:
    shapes = [_text(LEFT - 14, y + 4, escape(WORKLOADS[series.workload].title), "end")]
    # ferroloop last, so that it is drawn over the others.
    for loop in reversed(loops):
        ratios = series.ratios(loop, baseline)
        if loop == baseline or ratios is None or series.failure(loop):
            continue
        low, high = ratios.spread
        colour = COLOURS[loop]
        shapes.append(
            f'<line x1="{_x(low):.1f}" y1="{y}" x2="{_x(high):.1f}" y2="{y}" stroke="{colour}" '
            'stroke-width="2" opacity="0.45"/>'
        )
        shapes.append(
            f'<circle cx="{_x(ratios.median):.1f}" cy="{y}" r="4.5" fill="{colour}">'
            f"<title>{loop} {ratios.median:.2f}x</title></circle>"
        )
    return shapes


def draw(loops: list[str], table: list[Series], baseline: str) -> str:
    """The whole SVG document."""
    body = []
    y = TOP
    group = ""
    for series in table:
        workload = WORKLOADS[series.workload]
        if workload.group != group:
            group = workload.group
            y += ROW
            body.append(
                f'<text x="12" y="{y + 4}" font-weight="bold" fill="#111827">{escape(group)}</text>'
            )
            y += ROW
        body += _row(series, loops, baseline, y)
        y += ROW
    height = y + 12
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    )
    return "\n".join([head, *_legend(loops, baseline), *_axis(y), *body, "</svg>", ""])
