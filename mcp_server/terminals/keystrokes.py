"""Names of keys, and the bytes that a terminal sends for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vmm.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

_ARROWS = {"up": b"A", "down": b"B", "right": b"C", "left": b"D", "home": b"H", "end": b"F"}
_PLAIN = {
    "enter": b"\r",
    "return": b"\r",
    "tab": b"\t",
    "shift-tab": b"\x1b[Z",
    "escape": b"\x1b",
    "esc": b"\x1b",
    "backspace": b"\x7f",
    "space": b" ",
    "insert": b"\x1b[2~",
    "delete": b"\x1b[3~",
    "pageup": b"\x1b[5~",
    "pagedown": b"\x1b[6~",
    "f1": b"\x1bOP",
    "f2": b"\x1bOQ",
    "f3": b"\x1bOR",
    "f4": b"\x1bOS",
    "f5": b"\x1b[15~",
    "f6": b"\x1b[17~",
    "f7": b"\x1b[18~",
    "f8": b"\x1b[19~",
    "f9": b"\x1b[20~",
    "f10": b"\x1b[21~",
    "f11": b"\x1b[23~",
    "f12": b"\x1b[24~",
}
_CONTROL = re.compile(r"(?:ctrl|control|c)[-+]([a-z@\[\\\]^_ ])")
_ALT = re.compile(r"(?:alt|meta|m)[-+](.)", re.DOTALL)
_MOST = 100
_SHOWN = 40


def encode(keys: Sequence[str], *, application_cursor: bool = False) -> bytes:
    """Encode a sequence of key presses.

    Args:
        keys: Names such as `enter`, `ctrl-c`, `up`, `f5`, `alt-x`; case matters only after `alt-`.
        application_cursor: Whether the program expects arrow keys in their application form.

    Raises:
        InvalidInput: A key is unknown, or there are too many.
    """
    if len(keys) > _MOST:
        raise InvalidInput(
            f"keys must have at most {_MOST} entries, got {len(keys)}", hint="Send them in several calls"
        )
    return b"".join(_encode(key, application_cursor=application_cursor) for key in keys)


def _encode(key: str, *, application_cursor: bool) -> bytes:
    name = key.strip().lower().replace("page-", "page").replace("page_", "page") or key
    if name in _ARROWS:
        return (b"\x1bO" if application_cursor else b"\x1b[") + _ARROWS[name]
    if name in _PLAIN:
        return _PLAIN[name]
    if match := _CONTROL.fullmatch(name):
        letter = match.group(1)
        return b"\x00" if letter == " " else bytes([ord(letter.upper()) & 0x1F])
    if match := _ALT.fullmatch(key.strip()) or _ALT.fullmatch(name):
        return b"\x1b" + match.group(1).encode()
    shown = key if len(key) <= _SHOWN else f"{key[:_SHOWN]}…"
    raise InvalidInput(
        f"keys: {shown!r} is unknown",
        hint="Use enter, tab, shift-tab, escape, backspace, delete, space, up, down, left, right, home, end, pageup, "
        "pagedown, insert, f1 to f12, ctrl-a to ctrl-z, alt-x; ordinary characters go into text",
    )
