"""What is typed into a session, and the few words in it that are for the command line itself, as ssh has them."""

from __future__ import annotations

_TILDE, _DOT = b"~", b"."


class Escapes:
    """Watches for `~.` at the beginning of a line, which leaves the session; `~~` there is one tilde."""

    def __init__(self) -> None:
        self._at_start = True
        self._held = False

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What goes to the session, and whether the person leaves; what follows that is lost."""
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
