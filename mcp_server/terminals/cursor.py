"""The cursor of a screen: moves, tab stops, margins, and saved positions."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from pyte import modes
from pyte.screens import Margins

from .drawing import Drawing


@dataclass(frozen=True, slots=True)
class SavedCursor:
    """A cursor position that a program saved, with its origin mode and character sets."""

    x: int = 0
    y: int = 0
    origin: bool = False
    charset: int = 0
    drawing: tuple[bool, bool] = (False, False)


class CursorGrid(Drawing):
    """A grid whose cursor moves and stops like a terminal's."""

    def __init__(self, columns: int, lines: int) -> None:
        self.drawing = (False, False)
        self.saved = SavedCursor()
        super().__init__(columns, lines)

    @property
    def column(self) -> int:
        """The cursor's column, counted from 0; a cursor behind the last column counts as on it."""
        return min(self.cursor.x, self.columns - 1)

    def cursor_up(self, count: int | None = None) -> None:
        """Move up, at most to the top margin."""
        top, _ = self._region
        self.cursor.x = self.column
        self.cursor.y = max(self.cursor.y - (count or 1), top if self.cursor.y >= top else 0)

    def cursor_down(self, count: int | None = None) -> None:
        """Move down, at most to the bottom margin."""
        _, bottom = self._region
        self.cursor.x = self.column
        self.cursor.y = min(self.cursor.y + (count or 1), bottom if self.cursor.y <= bottom else self.lines - 1)

    def cursor_position(self, line: int | None = None, column: int | None = None) -> None:
        """Go to a row and column."""
        self.cursor_to_line(line)
        self.cursor_to_column(column)

    def cursor_to_line(self, line: int | None = None) -> None:
        """Go to a row, counted from the top margin in origin mode."""
        top, bottom = self._region if modes.DECOM in self.mode else (0, self.lines - 1)
        self.cursor.x = self.column
        self.cursor.y = min(top + (line or 1) - 1, bottom)

    def next_line(self) -> None:
        """Go to the beginning of the next line."""
        self.index()
        self.carriage_return()

    def tab(self, count: int = 1) -> None:
        """Go to the next tab stop, or the last column."""
        if self.cursor.x < self.columns - 1:
            stops = [*sorted(self.tabstops), self.columns - 1]
            ahead = bisect_right(stops[:-1], self.cursor.x) + (count or 1) - 1
            self.cursor.x = min(stops[min(ahead, len(stops) - 1)], self.columns - 1)

    def back_tab(self, count: int = 1) -> None:
        """Go to the previous tab stop, or the first column."""
        stops = [0, *sorted(self.tabstops)]
        behind = bisect_left(stops, self.column) - (count or 1)
        self.cursor.x = stops[max(behind, 0)]

    def set_margins(self, top: int | None = None, bottom: int | None = None) -> None:
        """Limit scrolling to the rows between two margins; without margins, to the whole screen."""
        first = (top or 1) - 1
        last = min(bottom or self.lines, self.lines) - 1
        if first < last:
            self.margins = Margins(first, last)
            self.cursor_position()

    def save_cursor(self) -> None:
        """Save the cursor's position."""
        self.saved = SavedCursor(self.cursor.x, self.cursor.y, modes.DECOM in self.mode, self.charset, self.drawing)

    def restore_cursor(self) -> None:
        """Go to the saved position, which stays saved; without one, go home."""
        saved = self.saved
        self.cursor.x, self.cursor.y = min(saved.x, self.columns), min(saved.y, self.lines - 1)
        (self.mode.add if saved.origin else self.mode.discard)(modes.DECOM)
        self.charset, self.drawing = saved.charset, saved.drawing
