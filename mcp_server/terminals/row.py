"""One row of a screen's cells, in which no half of a wide letter ever remains."""

from __future__ import annotations

import functools

from pyte.screens import Char, StaticDefaultDict

from .characters import grown, width

Row = StaticDefaultDict[int, Char]
BLANK = Char(" ")
# The second column of a wide letter. In the last column it may stand alone, where a wide letter did not fit.
STUB = Char("")


def new_row() -> Row:
    """Create a blank row."""
    return StaticDefaultDict(BLANK)


@functools.lru_cache(maxsize=4096)
def cell(text: str) -> Char:
    """Return the cell with that text."""
    return Char(text)


def part(row: Row, x: int) -> None:
    """Make a column the beginning of a letter: a wide letter across its edge is replaced by blanks.

    A letter that is wide only because of what follows it stays: many programs treat it as narrow, and continue in what
    is its second column here.
    """
    if x and not row[x].data and width(row[x - 1].data) == 2:
        row.pop(x)
        if not grown(row[x - 1].data):
            row.pop(x - 1)


def erase(row: Row, start: int, end: int) -> None:
    """Blank the columns from `start` to before `end`."""
    part(row, start)
    part(row, end)
    for x in range(start, min(end, max(row, default=0) + 1)):
        row.pop(x, None)


def shift(row: Row, start: int, right: int, columns: int) -> None:
    """Move the cells from a column on to the right, or to the left; cells beyond either end are lost."""
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
    """Blank the last column if a wide letter did not fit into it."""
    last = columns - 1
    if not row[last].data and width(row[last - 1].data) < 2:
        row.pop(last)
