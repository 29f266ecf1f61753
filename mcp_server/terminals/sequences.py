"""Parses terminal output into text, controls and escape sequences, in chunks of any size."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
_SEQUENCE = re.compile(r"\x1b\[([0-?]{0,64})([ -/]{0,4})([@-~])")
_PARAMETERS = re.compile(r"[ -?]+")
_STRING = re.compile(r"[^\x07\x18\x1a\x1b\x9c]+")
_PALETTE = re.compile(r"R|P[0-9A-Fa-f]{7}")
_PRIVATE = "<=>?"
_STRINGS = "]PX^_k"
_COLLECTED = 64
_TITLE = 1024
_LARGEST = 9999

_CONTROLS = {
    "\b": "backspace",
    "\t": "tab",
    "\n": "linefeed",
    "\v": "linefeed",
    "\f": "linefeed",
    "\r": "carriage_return",
    "\x0e": "shift_out",
    "\x0f": "shift_in",
}
_ESCAPES = {
    "c": "reset",
    "D": "index",
    "E": "next_line",
    "M": "reverse_index",
    "H": "set_tab_stop",
    "7": "save_cursor",
    "8": "restore_cursor",
    "#8": "alignment_display",
}
# The handler of each sequence, and the number of its parameters.
_HANDLERS = {
    "@": ("insert_characters", 1),
    "A": ("cursor_up", 1),
    "B": ("cursor_down", 1),
    "C": ("cursor_forward", 1),
    "D": ("cursor_back", 1),
    "E": ("cursor_down1", 1),
    "F": ("cursor_up1", 1),
    "G": ("cursor_to_column", 1),
    "H": ("cursor_position", 2),
    "I": ("tab", 1),
    "J": ("erase_in_display", 1),
    "?J": ("erase_in_display", 1),
    "K": ("erase_in_line", 1),
    "?K": ("erase_in_line", 1),
    "L": ("insert_lines", 1),
    "M": ("delete_lines", 1),
    "P": ("delete_characters", 1),
    "S": ("scroll_up", 1),
    "T": ("scroll_down", 1),
    "X": ("erase_characters", 1),
    "Z": ("back_tab", 1),
    "`": ("cursor_to_column", 1),
    "a": ("cursor_forward", 1),
    "b": ("repeat", 1),
    "c": ("report_device_attributes", 1),
    ">c": ("report_version", 0),
    "d": ("cursor_to_line", 1),
    "e": ("cursor_down", 1),
    "f": ("cursor_position", 2),
    "g": ("clear_tab_stop", 1),
    "h": ("set_mode", _COLLECTED),
    "?h": ("set_private_mode", _COLLECTED),
    "l": ("reset_mode", _COLLECTED),
    "?l": ("reset_private_mode", _COLLECTED),
    "n": ("report_device_status", 1),
    "!p": ("soft_reset", 0),
    "r": ("set_margins", 2),
    "s": ("save_cursor", 0),
    "u": ("restore_cursor", 0),
}


class Listener(Protocol):
    """Receives text and titles; the handlers of controls and sequences are looked up by name."""

    def draw(self, data: str) -> None:
        """Show text."""

    def interrupt(self) -> None:
        """Handle that something other than text arrived."""

    def set_title(self, param: str) -> None:
        """Set the window title."""

    def define_charset(self, code: str, mode: str) -> None:
        """Set the character set of G0 (`(`) or G1 (`)`)."""


class Parser:
    """Parses a terminal's output. Unknown sequences are skipped completely, so that no part of them shows as text.

    The C1 controls (U+0080 to U+009F) are ignored, because in UTF-8 they occur only by mistake: interpreted as the
    beginning of a string, they would swallow the text that follows.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._controls = {key: getattr(listener, name) for key, name in _CONTROLS.items()}
        self._escapes = {key: getattr(listener, name) for key, name in _ESCAPES.items()}
        self._handlers = {key: (getattr(listener, name), most) for key, (name, most) in _HANDLERS.items()}
        self._state: Callable[[str, int], int] = self._ground
        self._collected = ""

    def feed(self, text: str) -> None:
        """Parse output; a sequence may be continued by the next call."""
        position = 0
        while position < len(text):
            position = self._state(text, position)

    def _ground(self, text: str, position: int) -> int:
        if match := _TEXT.match(text, position):
            self._listener.draw(match.group())
            return match.end()
        if match := _SEQUENCE.match(text, position):
            self._run_sequence(*match.groups())
            return match.end()
        self._control(text[position])
        return position + 1

    def _control(self, letter: str) -> None:
        if letter == "\x1b":
            self._state, self._collected = self._escape, ""
        elif letter in "\x18\x1a":
            self._state = self._ground
        elif handler := self._controls.get(letter):
            self._listener.interrupt()
            handler()

    def _escape(self, text: str, position: int) -> int:
        letter = text[position]
        if letter < " " or letter == "\x7f":
            self._control(letter)
        elif letter < "0":
            self._collected = (self._collected + letter)[:_COLLECTED]
        else:
            self._state = self._ground
            if letter > "~":
                return position
            self._run_escape(letter)
        return position + 1

    def _run_escape(self, final: str) -> None:
        collected, self._collected = self._collected, ""
        if not collected and final == "[":
            # Only its end shows whether it is a repetition, which must not interrupt.
            self._state = self._sequence
            return
        self._listener.interrupt()
        if not collected and final in _STRINGS:
            self._collected, self._state = final, self._string
        elif collected in {"(", ")"}:
            self._listener.define_charset(final, collected)
        elif handler := self._escapes.get(collected + final):
            handler()

    def _sequence(self, text: str, position: int) -> int:
        if match := _PARAMETERS.match(text, position):
            self._collected = (self._collected + match.group())[: 2 * _COLLECTED]
            return match.end()
        letter = text[position]
        if "@" <= letter <= "~":
            self._state = self._ground
            # Malformed sequences and overlong ones are skipped, as in other terminals.
            if match := _SEQUENCE.fullmatch(f"\x1b[{self._collected}{letter}"):
                self._run_sequence(*match.groups())
        elif letter < " " or letter == "\x7f":
            self._control(letter)
        else:
            self._state = self._ground
            return position
        return position + 1

    def _run_sequence(self, parameters: str, between: str, final: str) -> None:
        private = parameters[:1] if parameters[:1] in _PRIVATE else ""
        numbers = parameters[len(private) :].split(";")
        handler = self._handlers.get(private + between + final)
        if final != "b":
            self._listener.interrupt()
        if handler and all(number.isdigit() or not number for number in numbers):
            run, most = handler
            run(*(min(int(number or 0), _LARGEST) for number in numbers[:most]))

    def _string(self, text: str, position: int) -> int:
        if match := _STRING.match(text, position):
            if self._collected == "]" and (palette := _PALETTE.match(text, position)):
                self._state = self._ground
                return palette.end()
            self._collected += match.group()[: max(0, _TITLE - len(self._collected))]
            return match.end()
        letter = text[position]
        if letter == "\x07" and self._collected[0] != "]":
            return position + 1
        collected, self._state = self._collected, self._ground
        if letter in "\x18\x1a":
            return position + 1
        if collected.startswith(("]0;", "]2;")):
            self._listener.set_title(collected[3:])
        if letter == "\x1b":
            self._control(letter)
        return position + 1
