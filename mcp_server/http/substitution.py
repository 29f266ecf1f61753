"""One text in a stream of bytes that is replaced by another, with no more of the stream in memory than its length."""

from __future__ import annotations


class Substitution:
    """Replaces the first occurrence; what may be its beginning is held back until more has come.

    Args:
        old: What to look for.
        new: What goes in its place.
    """

    def __init__(self, old: bytes, new: bytes) -> None:
        self._old = old
        self._new = new
        self._held = b""
        self.done = False
        """Whether it has been found."""

    def put(self, piece: bytes, *, end: bool = False) -> bytes:
        """Take the next piece; give what can be passed on, at the end all that is left."""
        if self.done:
            return piece
        text = self._held + piece
        before, found, after = text.partition(self._old)
        if found:
            self.done, self._held = True, b""
            return before + self._new + after
        held = 0 if end else self._begun(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _begun(self, text: bytes) -> int:
        """How many of the last bytes may be the beginning of what is looked for."""
        longest = min(len(text), len(self._old) - 1)
        return next((size for size in range(longest, 0, -1) if text.endswith(self._old[:size])), 0)
