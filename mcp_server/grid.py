"""A screen's cells: what is drawn, inserted, erased and moved in them."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pyte
from pyte import modes
from pyte.screens import Margins

from .characters import joined, joins, shows, width
from .row import BLANK, STUB, Row, cell, cut, erase, new_row, part, shift

Rows = dict[int, Row]
_RUNS = re.compile(r"[ -~]+|[^ -~]")


def new_rows() -> Rows:
    """Rows of a screen, all blank."""
    return defaultdict(new_row)


class Grid(pyte.Screen):
    """Pyte's screen of cells without colours, in which letters share cells and no half of a wide one is left over."""

    def __init__(self, columns: int, lines: int) -> None:
        self._last = ""
        self._leading = ""
        super().__init__(columns, lines)
        self.buffer = new_rows()

    @property
    def display(self) -> list[str]:
        """The rows as they read; a wide letter's second column is empty."""
        return [self._row(self.buffer.get(y)) for y in range(self.lines)]

    def interrupt(self) -> None:
        """Something else than text came: nothing is to be repeated, and marks wait for no letter any more."""
        self._last = self._leading = ""

    def draw(self, data: str) -> None:
        """Show text at the cursor."""
        for run in [data] if data.isascii() else _RUNS.findall(data):
            if run.isascii() and not self._leading:
                self._draw_plain(run)
            else:
                for letter in run:
                    self._draw_letter(letter)

    def repeat(self, count: int = 1) -> None:
        """Show the last letter again, as far as the row goes."""
        room = self.columns - self.cursor.x
        if self._last and (count := min(count or 1, room // width(self._last))):
            self.draw(self._last * count)

    def insert_characters(self, count: int = 1) -> None:
        """Push what stands from the cursor on to the right."""
        line, x = self._edited()
        shift(line, x, count or 1, self.columns)

    def delete_characters(self, count: int = 1) -> None:
        """Take letters away from the cursor on; what follows moves up."""
        line, x = self._edited()
        shift(line, x, -(count or 1), self.columns)

    def erase_characters(self, count: int = 1) -> None:
        """Blank letters from the cursor on."""
        line, x = self._edited()
        erase(line, x, x + (count or 1))

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        """Blank the row from the cursor on (0), up to it (1) or whole (2)."""
        line, x = self.buffer[self.cursor.y], self.cursor.x
        if how in {0, 1, 2}:
            erase(line, 0 if how else x, self.columns if how != 1 else x + 1)

    def erase_in_display(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        """Blank the screen from the cursor on (0), up to it (1) or whole (2). What scrolled off (3) is not here."""
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
        """Scroll the region between the margins."""
        self._shift_rows(*self._region, count or 1)

    def scroll_down(self, count: int = 1) -> None:
        """Scroll the region between the margins back."""
        self._shift_rows(*self._region, -(count or 1))

    def insert_lines(self, count: int = 1) -> None:
        """Push the cursor's row and those below it down, within the margins."""
        self._move_rows(-(count or 1))

    def delete_lines(self, count: int = 1) -> None:
        """Take rows away from the cursor's on, within the margins; what follows moves up."""
        self._move_rows(count or 1)

    def fit(self, rows: Rows, y: int, *, lines: int, columns: int) -> int:
        """Cut rows to another size so that row `y` stays: what lies below it goes first, then what lies at the top.

        Returns:
            How many rows went at the top.
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

    def _draw_plain(self, text: str) -> None:
        position = 0
        while position < len(text):
            self._wrap_if_full()
            line, x = self.buffer[self.cursor.y], self.cursor.x
            room = self.columns - x
            piece = text[position : position + room]
            if modes.DECAWM not in self.mode and len(text) - position > room:
                # Without wrapping, the last column takes whatever comes last.
                piece, position = piece[:-1] + text[-1], len(text)
            self._make_room(line, x, len(piece))
            line.update(zip(range(x, x + len(piece)), map(cell, piece), strict=True))
            self.cursor.x = x + len(piece)
            position += len(piece)
        self._last = text[-1]

    def _draw_letter(self, letter: str) -> None:
        if not shows(letter):
            return
        line, x = self.buffer[self.cursor.y], self.cursor.x
        before = x - 1 if x < 2 or line[x - 1].data or not line[x - 2].data else x - 2
        if before >= 0 and joins(line[before].data, letter):
            self._widen(before, joined(line[before].data, letter))
        elif width(letter):
            self._place(self._leading + letter)
            self._leading = ""
        elif x == 0:
            # Marks without a letter before them go before the next one.
            self._leading = joined(self._leading, letter)
            if line[0] == BLANK:
                line[0] = cell(" " + self._leading)

    def _place(self, text: str) -> None:
        columns = min(width(text), self.columns)
        self._wrap_if_full()
        if self.cursor.x + columns > self.columns:
            if modes.DECAWM in self.mode:
                self._leave_last_column()
            else:
                self.cursor.x = self.columns - columns
        line, x = self.buffer[self.cursor.y], self.cursor.x
        self._make_room(line, x, columns)
        line.update(zip(range(x, x + columns), (cell(text), STUB), strict=False))
        self.cursor.x = x + columns
        self._last = text

    def _widen(self, x: int, text: str) -> None:
        line = self.buffer[self.cursor.y]
        old, new = width(line[x].data), width(text)
        if new > old and x + new <= self.columns:
            self._make_room(line, x + old, new - old)
            line[x + old] = STUB
            self.cursor.x = x + new
        elif new > old and modes.DECAWM in self.mode and self.columns >= new:
            self._leave_last_column()
            self._place(text)
            return
        elif new < old:
            line.pop(x + new, None)
            self.cursor.x = x + new
        line[x] = cell(text)

    def _leave_last_column(self) -> None:
        line, x = self.buffer[self.cursor.y], self.columns - 1
        part(line, x)
        line[x] = STUB
        self._wrap()

    def _wrap_if_full(self) -> None:
        if self.cursor.x == self.columns:
            if modes.DECAWM in self.mode:
                self._wrap()
            else:
                self.cursor.x -= 1

    def _wrap(self) -> None:
        self.carriage_return()
        self.index()

    def _make_room(self, line: Row, x: int, count: int) -> None:
        if modes.IRM in self.mode:
            shift(line, x, count, self.columns)
        else:
            part(line, x)
            part(line, x + count)

    def _edited(self) -> tuple[Row, int]:
        return self.buffer[self.cursor.y], self.cursor.x
