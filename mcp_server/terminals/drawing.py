"""Writes text into a screen's cells."""

from __future__ import annotations

import re

from pyte import modes

from .characters import joined, joins, shows, width
from .grid import Grid
from .row import BLANK, STUB, Row, cell, part, shift

_RUNS = re.compile(r"[ -~]+|[^ -~]")


class Drawing(Grid):
    """A grid that combines the characters of a grapheme in one cell, and shows all of them."""

    def __init__(self, columns: int, lines: int) -> None:
        self._last = ""
        self._leading = ""
        super().__init__(columns, lines)

    def interrupt(self) -> None:
        """Forget the last letter and pending marks, because something other than text arrived."""
        self._last = self._leading = ""

    def draw(self, data: str) -> None:
        """Write text at the cursor."""
        for run in [data] if data.isascii() else _RUNS.findall(data):
            if run.isascii() and not self._leading:
                self._draw_plain(run)
            else:
                for letter in run:
                    self._draw_letter(letter)

    def repeat(self, count: int = 1) -> None:
        """Repeat the last letter, at most to the end of the row."""
        room = self.columns - self.cursor.x
        if self._last and (count := min(count or 1, room // width(self._last))):
            self.draw(self._last * count)

    def _draw_plain(self, text: str) -> None:
        position = 0
        while position < len(text):
            self._wrap_if_full()
            line, x = self.buffer[self.cursor.y], self.cursor.x
            room = self.columns - x
            piece = text[position : position + room]
            if modes.DECAWM not in self.mode and len(text) - position > room:
                # Without wrapping, the last character overwrites the last column.
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
            # Marks without a letter before them are added to the next one.
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
