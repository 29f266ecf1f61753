"""Escape sequences typed into a terminal session, as in ssh."""

from __future__ import annotations

_TILDE, _DOT = b"~", b"."


class Escapes:
    """Detects `~.` at the start of a line, which detaches from the session; `~~` there sends one tilde."""

    def __init__(self) -> None:
        self._at_start = True
        self._held = False

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """Return the bytes to send and whether the user detaches; bytes typed after the escape are dropped."""
        sent = bytearray()
        for byte in typed:
            letter = bytes((byte,))
            if self._held:
                self._held = False
                if letter == _DOT:
                    return bytes(sent), True
                if letter != _TILDE:
                    sent += _TILDE
            elif letter == _TILDE and self._at_start:
                self._held = True
                continue
            sent += letter
            self._at_start = letter in {b"\r", b"\n"}
        return bytes(sent), False
