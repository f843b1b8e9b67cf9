"""Text that fits a terminal: tables, lines of items, and the histogram of the lag."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO

BARS = "▁▂▃▄▅▆▇█"
CUT = "…"
INDENT = " " * 14
NARROWEST_COLUMN = 8

# The columns of the histogram: eight for each decade from a microsecond to ten seconds.
PER_DECADE = 8
DECADES = ("1µs", "10µs", "100µs", "1ms", "10ms", "100ms", "1s")


def terminal_width(stream: IO[str]) -> int | None:
    """The columns of the terminal; None if the stream is none, or does not know its size."""
    if not stream.isatty():
        return None
    return os.get_terminal_size(stream.fileno()).columns or None


def printable(text: str) -> str:
    """The text without characters that control a terminal: the names of tasks may contain any."""
    return "".join(character if character.isprintable() else "?" for character in text)


def by_number(text: str) -> list[str | int]:
    """A sort key that puts `Task-2` before `Task-10`."""
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def cut(text: str, width: int) -> str:
    """Cut out the middle of a text that is too long: a function's file and line are at its end."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return text[: width - 1 - tail] + CUT + text[len(text) - tail :]


def table(
    rows: Sequence[tuple[str, ...]], width: int | None = None, expendable: Iterable[str] = ()
) -> Iterator[str]:
    """Aligned columns.

    Args:
        rows: the head, then the body.
        width: cut the cells of the widest columns until all fits.
        expendable: the heads of columns that are left out first.
    """
    columns = [[printable(row[index]) for row in rows] for index in range(len(rows[0]))]

    def excess() -> int:
        return 0 if width is None else sum(widths) + 2 * (len(widths) - 1) - width

    widths = [max(map(len, column)) for column in columns]
    for head in expendable:
        if excess() > 0:
            index = next(i for i, column in enumerate(columns) if column[0] == head)
            del columns[index], widths[index]
    while excess() > 0 and max(widths) > NARROWEST_COLUMN:
        widths[widths.index(max(widths))] -= 1
    for row in zip(*columns, strict=True):
        cells = (cut(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def labelled(label: str, items: Iterable[str], width: int | None = None) -> Iterator[str]:
    """A label and its items on one line, or on several if they do not fit."""
    line = f"  {label:12}"
    empty = True
    for item in items:
        if not empty and width is not None and len(line) + 3 + len(item) > width:
            yield line
            line, empty = INDENT, True
        line += item if empty else f"   {item}"
        empty = False
    yield line


def bars(counts: Sequence[int]) -> str:
    """One character per count, as high as its share of the largest; a space for zero."""
    most = max(counts, default=0)
    return "".join(
        BARS[max(0, math.ceil(count / most * len(BARS)) - 1)] if count else " " for count in counts
    )


def lag_histogram(buckets: Mapping[float, int]) -> Iterator[str]:
    """The histogram of a loop's turns as a line of bars above its scale.

    Args:
        buckets: the number of turns for each upper bound in seconds.
    """
    counts = [0] * (PER_DECADE * len(DECADES))
    for bound, count in buckets.items():
        # A bucket belongs to the column in which it ends, also if both have the same bound.
        position = math.log10(bound * 1e6) * PER_DECADE if bound > 0 else 0.0
        counts[min(max(math.ceil(position - 1e-6) - 1, 0), len(counts) - 1)] += count
    yield f"{INDENT}{bars(counts)}".rstrip()
    yield INDENT + "".join(mark.ljust(PER_DECADE) for mark in DECADES).rstrip()
