"""The cells of a screen: inserting, erasing and scrolling."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyte
from pyte.screens import Margins

from .row import Row, cell, cut, erase, new_row, shift

Rows = dict[int, Row]


def new_rows() -> Rows:
    """Create the blank rows of a screen."""
    return defaultdict(new_row)


class Grid(pyte.Screen):
    """Pyte's screen without colours, in which no half of a wide letter remains."""

    columns: int
    lines: int
    tabstops: set[int]

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__(columns, lines)
        self.buffer = new_rows()

    @property
    def display(self) -> list[str]:
        """The text of the rows; the second column of a wide letter is empty."""
        return [self._row(self.buffer.get(y)) for y in range(self.lines)]

    def insert_characters(self, count: int | None = None) -> None:
        """Insert blanks at the cursor, and shift the rest of the row to the right."""
        line, x = self._edited()
        shift(line, x, count or 1, self.columns)

    def delete_characters(self, count: int | None = None) -> None:
        """Delete characters at the cursor, and shift the rest of the row to the left."""
        line, x = self._edited()
        shift(line, x, -(count or 1), self.columns)

    def erase_characters(self, count: int | None = None) -> None:
        """Blank characters from the cursor on."""
        line, x = self._edited()
        erase(line, x, x + (count or 1))

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        """Blank the row from the cursor on (0), up to it (1) or completely (2)."""
        line, x = self.buffer[self.cursor.y], self.cursor.x
        if how in {0, 1, 2}:
            erase(line, 0 if how else x, self.columns if how != 1 else x + 1)

    def erase_in_display(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        """Blank the screen from the cursor on (0), up to it (1) or completely (2). There is no scrollback (3)."""
        y = self.cursor.y
        if how in {0, 1}:
            self.erase_in_line(how)
        for number in {0: range(y + 1, self.lines), 1: range(y), 2: range(self.lines)}.get(how, ()):
            self.buffer.pop(number, None)

    def alignment_display(self) -> None:
        """Fill the screen with the letter E."""
        self.set_margins()
        full = dict.fromkeys(range(self.columns), cell("E"))
        for y in range(self.lines):
            self.buffer[y].update(full)

    def index(self) -> None:
        """Move down; at the bottom margin, scroll."""
        top, bottom = self._region
        if self.cursor.y == bottom:
            self._shift_rows(top, bottom, 1)
        elif self.cursor.y < self.lines - 1:
            self.cursor.y += 1

    def reverse_index(self) -> None:
        """Move up; at the top margin, scroll."""
        top, bottom = self._region
        if self.cursor.y == top:
            self._shift_rows(top, bottom, -1)
        elif self.cursor.y > 0:
            self.cursor.y -= 1

    def scroll_up(self, count: int = 1) -> None:
        """Scroll the region between the margins up."""
        self._shift_rows(*self._region, count or 1)

    def scroll_down(self, count: int = 1) -> None:
        """Scroll the region between the margins down."""
        self._shift_rows(*self._region, -(count or 1))

    def insert_lines(self, count: int | None = None) -> None:
        """Insert blank rows at the cursor, and shift the rows below it down, within the margins."""
        self._move_rows(-(count or 1))

    def delete_lines(self, count: int | None = None) -> None:
        """Delete rows at the cursor, and shift the rows below them up, within the margins."""
        self._move_rows(count or 1)

    def fit(self, rows: Rows, y: int, *, lines: int, columns: int) -> int:
        """Cut rows to another size, but keep row `y`: rows below it are dropped first, then rows at the top.

        Returns:
            The number of rows dropped at the top.
        """
        dropped = max(0, y - lines + 1)
        for line in rows.values():
            cut(line, columns, before=self.columns)
        kept = {number - dropped: line for number, line in rows.items() if 0 <= number - dropped < lines}
        rows.clear()
        rows.update(kept)
        return dropped

    def _row(self, line: Row | None) -> str:
        return "".join([line[x].data for x in range(self.columns)]) if line else " " * self.columns

    @property
    def _region(self) -> Margins:
        return self.margins or Margins(0, self.lines - 1)

    def _move_rows(self, count: int) -> None:
        top, bottom = self._region
        if top <= self.cursor.y <= bottom:
            self._shift_rows(self.cursor.y, bottom, count)
            self.carriage_return()

    def _shift_rows(self, top: int, bottom: int, up: int) -> None:
        moved = [self.buffer.pop(y, None) for y in range(top, bottom + 1)]
        for y, line in enumerate(moved, top - up):
            if line and top <= y <= bottom:
                self.buffer[y] = line

    def _edited(self) -> tuple[Row, int]:
        return self.buffer[self.cursor.y], self.cursor.x
