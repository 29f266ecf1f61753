"""Replaces a text in a stream of bytes, buffering no more of the stream than the text's length."""

from __future__ import annotations


class Substitution:
    """Replaces the first occurrence; a possible beginning of it is held back until more arrives.

    Args:
        old: The text to replace.
        new: The replacement.
    """

    def __init__(self, old: bytes, new: bytes) -> None:
        self._old = old
        self._new = new
        self._held = b""
        self.done = False
        """Whether the text has been found."""

    def put(self, piece: bytes, *, end: bool = False) -> bytes:
        """Add a chunk, and return what can be passed on; at the end that is all the rest."""
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
        """Count the last bytes that may be the beginning of the text."""
        longest = min(len(text), len(self._old) - 1)
        return next((size for size in range(longest, 0, -1) if text.endswith(self._old[:size])), 0)
