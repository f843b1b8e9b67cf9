"""The text that `python -m ferroloop top` and `ps` fit to a terminal."""

import pytest
from ferroloop._screen import (
    BARS,
    bars,
    by_number,
    cut,
    labelled,
    lag_histogram,
    printable,
    table,
)

ROWS = [("NAME", "ID", "AT"), ("a task", "0x7f00", "serve (server.py:12)"), ("b", "0x7f10", "-")]


def test_a_table_without_a_width_is_whole():
    assert list(table(ROWS)) == [
        "NAME    ID      AT",
        "a task  0x7f00  serve (server.py:12)",
        "b       0x7f10  -",
    ]


def test_a_table_loses_expendable_columns_first_then_the_middle_of_long_cells():
    assert list(table(ROWS, 30, expendable=["ID"]))[1] == "a task  serve (server.py:12)"
    assert list(table(ROWS, 36, expendable=["ID"])) == list(table(ROWS))
    assert list(table(ROWS, 24, expendable=["ID"])) == [
        "NAME    AT",
        "a task  serve (s….py:12)",
        "b       -",
    ]
    for width in range(18, 40):
        assert all(len(line) <= width for line in table(ROWS, width, expendable=["ID"]))


@pytest.mark.parametrize(
    ("width", "shown"), [(9, "123456789"), (8, "1234…789"), (7, "123…789"), (2, "1…"), (1, "…")]
)
def test_cut(width, shown):
    assert cut("123456789", width) == shown


def test_items_continue_on_the_next_line():
    assert list(labelled("queue", ["ready 1", "timers 2"])) == ["  queue       ready 1   timers 2"]
    assert list(labelled("queue", ["ready 1", "timers 2"], 30)) == [
        "  queue       ready 1",
        "              timers 2",
    ]
    assert list(labelled("queue", ["longer than the line"], 20)) == [
        "  queue       longer than the line"
    ]


def test_bars_are_shares_of_the_largest():
    assert bars(range(9)) == " " + BARS
    assert bars([1, 0, 1000]) == BARS[0] + " " + BARS[-1]
    assert bars([0, 0]) == "  "
    assert bars([]) == ""


@pytest.mark.parametrize(
    ("bound", "column"),
    [
        (0.0, 0),
        (1e-7, 0),
        (1e-6, 0),
        (1e-5, 7),
        (1.01e-5, 8),
        (1e-3, 23),
        (1.1e-3, 24),
        (1.0, 47),
        (10.0, 55),
        (1e9, 55),
    ],
)
def test_a_bucket_is_drawn_above_its_place_on_the_scale(bound, column):
    drawn, scale = lag_histogram({bound: 3})
    assert drawn == " " * (14 + column) + BARS[-1]
    assert scale.index("10µs") == 14 + 8
    assert scale.index("1ms") == 14 + 24
    assert len(scale) <= 80


def test_no_turns_draw_no_bars():
    assert next(lag_histogram({})) == ""


def test_names_are_sorted_by_their_numbers():
    names = ["Task-10", "Task-9", "10", "worker", "Task-9b", ""]
    assert sorted(names, key=by_number) == ["", "10", "Task-9", "Task-9b", "Task-10", "worker"]


def test_names_cannot_control_the_terminal():
    assert printable("a\x1b[2Jb\nc\x9b") == "a?[2Jb?c?"
    assert next(table([("\x1b",)])) == "?"
