"""Emulates a terminal's screen; safe against any output of a guest."""

from __future__ import annotations

import codecs
import unicodedata
from typing import Any

from pyte import modes

from .cursor import CursorGrid, SavedCursor
from .grid import Rows, new_rows
from .sequences import Parser

_ALTERNATE = frozenset({47, 1047, 1049})
_WITH_CURSOR = 1049
_CURSOR = 1048
# 132 columns and reversed colours: programs do not change the terminal's size, and there are no colours.
_WITHOUT_EFFECT = frozenset({3, 5})
# Pyte stores private modes shifted into the same set, so their numbers must not be reachable as public ones.
_PUBLIC = frozenset({modes.IRM, modes.LNM})
_APPLICATION_CURSOR = 1 << 5
_TAB = 8
_STATUS = 5
_CURSOR_POSITION = 6
_DRAWING = str.maketrans("_`abcdefghijklmnopqrstuvwxyz{|}~", " ◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·")


class Emulator:
    """Renders a terminal's raw output as a screen. Not thread-safe."""

    def __init__(self, cols: int, rows: int) -> None:
        self._screen = _Screen(cols, rows)
        self._parser = Parser(self._screen)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> bytes:
        """Process output.

        Returns:
            What a real terminal would answer to programs that query the cursor's position or the terminal's type.
        """
        self._parser.feed(self._decoder.decode(data))
        answer = self._screen.answers
        self._screen.answers = ""
        return answer.encode()

    def resize(self, cols: int, rows: int) -> None:
        """Change the size, if it is new."""
        self._screen.resize(lines=rows, columns=cols)

    def text(self) -> tuple[str, ...]:
        """Return the screen's rows from the top, without trailing blanks."""
        return tuple(row.rstrip(" ") for row in self._screen.display)

    def shows(self, needle: str) -> bool:
        """Whether a text is on the screen: in one row, in several, or wrapped from one row to the next."""
        rows = [unicodedata.normalize("NFC", row) for row in self._screen.display]
        needle = unicodedata.normalize("NFC", needle)
        return needle in "\n".join(row.rstrip() for row in rows) or needle in "".join(rows)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self._screen.columns, self._screen.lines

    @property
    def cursor(self) -> tuple[int, int]:
        """The cursor's row and column, counted from 1."""
        return self._screen.cursor.y + 1, min(self._screen.cursor.x, self._screen.columns - 1) + 1

    @property
    def title(self) -> str:
        """The window title that a program set, or empty."""
        return "".join(letter for letter in self._screen.title[:200] if letter.isprintable())

    @property
    def application_cursor(self) -> bool:
        """Whether the program expects arrow keys in their application form."""
        return _APPLICATION_CURSOR in self._screen.mode


class _Screen(CursorGrid):
    """A screen with modes, an alternate buffer, and answers to queries."""

    def __init__(self, columns: int, lines: int) -> None:
        self.answers = ""
        self._main: tuple[Rows, int, int, SavedCursor] | None = None
        super().__init__(columns, lines)

    def write_process_input(self, data: str) -> None:
        self.answers += data

    def report_version(self) -> None:
        self.write_process_input("\x1b[>0;0;0c")

    def report_device_status(self, mode: int) -> None:
        if mode == _STATUS:
            self.write_process_input("\x1b[0n")
        elif mode == _CURSOR_POSITION:
            top = self._region.top if modes.DECOM in self.mode else 0
            self.write_process_input(f"\x1b[{self.cursor.y - top + 1};{self.column + 1}R")

    def draw(self, data: str) -> None:
        super().draw(data.translate(_DRAWING) if self.drawing[self.charset] else data)

    def define_charset(self, code: str, mode: str) -> None:
        first, second = self.drawing
        self.drawing = (code == "0", second) if mode == "(" else (first, code == "0")

    def set_private_mode(self, *numbers: int) -> None:
        for number in numbers:
            if number in _ALTERNATE:
                self._leave_main()
            elif number == _CURSOR:
                self.save_cursor()
            elif number not in _WITHOUT_EFFECT:
                self.set_mode(number, private=True)

    def reset_private_mode(self, *numbers: int) -> None:
        for number in numbers:
            if number in _ALTERNATE:
                self._return_to_main(with_cursor=number == _WITH_CURSOR)
            elif number == _CURSOR:
                self.restore_cursor()
            elif number not in _WITHOUT_EFFECT:
                self.reset_mode(number, private=True)

    def set_mode(self, *modes: int, **kwargs: Any) -> None:
        super().set_mode(*(modes if kwargs.get("private") else _PUBLIC.intersection(modes)), **kwargs)

    def reset_mode(self, *modes: int, **kwargs: Any) -> None:
        super().reset_mode(*(modes if kwargs.get("private") else _PUBLIC.intersection(modes)), **kwargs)

    def soft_reset(self) -> None:
        """Reset modes and saved positions; the content stays."""
        self.reset_mode(modes.IRM)
        self.mode.difference_update({modes.DECOM, _APPLICATION_CURSOR})
        self.mode.add(modes.DECAWM)
        self.margins, self.saved, self.charset, self.drawing = None, SavedCursor(), 0, (False, False)

    def reset(self) -> None:
        self._main, self.saved, self.drawing = None, SavedCursor(), (False, False)
        super().reset()

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        lines, columns = lines or self.lines, columns or self.columns
        if (lines, columns) == (self.lines, self.columns):
            return
        self.cursor.y -= self.fit(self.buffer, self.cursor.y, lines=lines, columns=columns)
        if self._main:
            rows, x, y, saved = self._main
            y -= self.fit(rows, y, lines=lines, columns=columns)
            self._main = (rows, x, y, saved)
        self.tabstops.update(range(self.columns + -self.columns % _TAB, columns, _TAB))
        self.lines, self.columns, self.margins = lines, columns, None
        self.cursor.x = min(self.cursor.x, columns)

    def _leave_main(self) -> None:
        if self._main is None:
            self._main = (self.buffer, self.cursor.x, self.cursor.y, self.saved)
            self.buffer = new_rows()

    def _return_to_main(self, *, with_cursor: bool) -> None:
        if self._main is None:
            return
        self.buffer, x, y, self.saved = self._main
        self._main = None
        if with_cursor:
            self.cursor.x, self.cursor.y = min(x, self.columns), y
