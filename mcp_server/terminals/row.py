"""One row of a screen's cells, in which no half of a wide letter is ever left over."""

from __future__ import annotations

import functools

from pyte.screens import Char, StaticDefaultDict

from .characters import grown, width

Row = StaticDefaultDict[int, Char]
BLANK = Char(" ")
# The second column of a wide letter; alone in the last column, where a wide one did not fit any more.
STUB = Char("")


def new_row() -> Row:
    """A blank row."""
    return StaticDefaultDict(BLANK)


@functools.lru_cache(maxsize=4096)
def cell(text: str) -> Char:
    """The cell with that text."""
    return Char(text)


def part(row: Row, x: int) -> None:
    """Make sure that a column begins a letter: a wide one that lies across its edge leaves blanks.

    One that only what follows it made wide stays: many programs take it for a narrow one, and go on in the column that
    is its second here.
    """
    if x and not row[x].data and width(row[x - 1].data) == 2:
        row.pop(x)
        if not grown(row[x - 1].data):
            row.pop(x - 1)


def erase(row: Row, start: int, end: int) -> None:
    """Blank the columns from one to before another."""
    part(row, start)
    part(row, end)
    for x in range(start, min(end, max(row, default=0) + 1)):
        row.pop(x, None)


def shift(row: Row, start: int, right: int, columns: int) -> None:
    """Move the cells from a column on to the right, or to the left; those that leave, at either end, are gone."""
    part(row, start)
    part(row, max(start, start - right))
    close_gap(row, columns)
    last = columns - 1
    moved = {x + right: row.pop(x) for x in range(start, columns) if x in row}
    row.update({x: cell for x, cell in moved.items() if start <= x <= last})
    if width(row[last].data) == 2 and not grown(row[last].data):
        row.pop(last)


def cut(row: Row, columns: int, *, before: int) -> None:
    """Make a row narrower or wider."""
    close_gap(row, before)
    erase(row, columns, before)


def close_gap(row: Row, columns: int) -> None:
    """Take the last column for a blank one where a wide letter did not fit into it."""
    last = columns - 1
    if not row[last].data and width(row[last - 1].data) < 2:
        row.pop(last)
