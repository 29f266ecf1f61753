"""A terminal's screen as a person would see it: pyte, made safe against whatever a guest may write."""

from __future__ import annotations

import codecs
import contextlib
import functools
import itertools
from typing import TYPE_CHECKING, Any

import pyte
from wcwidth import wcwidth

if TYPE_CHECKING:
    from collections.abc import Callable

_ALTERNATE = frozenset({47, 1047, 1049})
_COLUMN_SWITCH = 3
_APPLICATION_CURSOR = 1 << 5
_MARKS = 8
_CANCEL = "\x18"
_WITH_PRIVATE = frozenset(
    {"set_mode", "reset_mode", "erase_in_line", "erase_in_display", "report_device_attributes", "debug", "draw"}
)


class Emulator:
    """Takes a terminal's raw output and renders the screen that it makes. Not for use by two threads at once."""

    def __init__(self, cols: int, rows: int) -> None:
        self._screen = _Screen(cols, rows)
        self._stream = _Stream(self._screen, strict=False)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> bytes:
        """Take output in.

        Returns:
            What a real terminal would answer, for programs that ask it for the cursor's place or its kind.
        """
        self._stream.take(self._decoder.decode(data))
        answer = self._screen.answers
        self._screen.answers = ""
        return answer.encode()

    def resize(self, cols: int, rows: int) -> None:
        """Follow the terminal's new size; does nothing if it is the present one."""
        self._screen.resize(lines=rows, columns=cols)

    def text(self) -> tuple[str, ...]:
        """The screen's rows from the top, without the blanks at their ends."""
        return tuple(row.rstrip() for row in self._screen.display)

    def shows(self, needle: str) -> bool:
        """Whether a text stands on the screen: in a row, over several, or wrapped from one into the next."""
        rows = self._screen.display
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
        """The title that a program gave the window, else empty."""
        return "".join(letter for letter in self._screen.title[:200] if letter.isprintable())

    @property
    def application_cursor(self) -> bool:
        """Whether arrow keys must be sent in their application form."""
        return _APPLICATION_CURSOR in self._screen.mode


class _Stream(pyte.Stream):
    """Pyte's parser, which takes every digit of Unicode for a number: some, such as ¹, are none and would end it."""

    def take(self, text: str) -> None:
        """Parse; a digit without a numeric value inside a sequence cancels it, elsewhere it is a letter like others."""
        if text.isascii():
            self._parse(text)
            return
        for strange, letters in itertools.groupby(text, _is_strange_digit):
            in_sequence = strange and not self._taking_plain_text
            self._parse(_CANCEL if in_sequence else "".join(letters))

    def _parse(self, text: str) -> None:
        # A number of thousands of digits is refused by Python; pyte has begun afresh when it says so.
        with contextlib.suppress(ValueError):
            self.feed(text)


class _Screen(pyte.Screen):
    """Pyte's screen with an alternate buffer, answers that can be fetched, and handlers that never raise."""

    def __init__(self, columns: int, lines: int) -> None:
        self.answers = ""
        self._main: tuple[dict[int, dict[int, pyte.screens.Char]], int, int] | None = None
        super().__init__(columns, lines)

    def write_process_input(self, data: str) -> None:
        self.answers += data

    def draw(self, data: str) -> None:
        super().draw(data if data.isascii() else _few_marks(data))

    def set_mode(self, *modes: int, **kwargs: Any) -> None:
        if kwargs.get("private"):
            if _ALTERNATE.intersection(modes):
                self._leave_main()
            modes = tuple(mode for mode in modes if mode != _COLUMN_SWITCH)
        super().set_mode(*modes, **kwargs)

    def reset_mode(self, *modes: int, **kwargs: Any) -> None:
        if kwargs.get("private"):
            if _ALTERNATE.intersection(modes):
                self._return_to_main()
            modes = tuple(mode for mode in modes if mode != _COLUMN_SWITCH)
        super().reset_mode(*modes, **kwargs)

    def reset(self) -> None:
        self._main = None
        super().reset()

    def _leave_main(self) -> None:
        if self._main is None:
            cells = {y: dict(line) for y, line in self.buffer.items()}
            self._main = (cells, self.cursor.x, self.cursor.y)
            self.erase_in_display(2)

    def _return_to_main(self) -> None:
        if self._main is None:
            return
        cells, x, y = self._main
        self._main = None
        self.buffer.clear()
        for number, line in cells.items():
            if number < self.lines:
                self.buffer[number].update({column: cell for column, cell in line.items() if column < self.columns})
        self.cursor.x, self.cursor.y = min(x, self.columns - 1), min(y, self.lines - 1)
        self.set_margins()


def _tolerant(method: Callable[..., Any], *, keep: bool) -> Callable[..., Any]:
    """The handler without the arguments that it does not know, deaf to sequences that it cannot take."""

    @functools.wraps(method)
    def handle(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("private") and not keep:
            return None
        try:
            return method(*args, **kwargs)
        except Exception:
            # A malformed sequence, of which pyte trips over many: a real terminal ignores them, and so does this one.
            return None

    return handle


for _event in pyte.Stream.events:
    setattr(_Screen, _event, _tolerant(getattr(_Screen, _event), keep=_event in _WITH_PRIVATE))


def _is_strange_digit(letter: str) -> bool:
    return letter.isdigit() and not letter.isdecimal()


def _few_marks(data: str) -> str:
    """At most eight combining marks on a letter: pyte's time grows with the square of their number."""
    kept: list[str] = []
    marks = 0
    for letter in data:
        marks = marks + 1 if wcwidth(letter) == 0 else 0
        if marks <= _MARKS:
            kept.append(letter)
    return "".join(kept)
