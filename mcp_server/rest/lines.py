"""Splits output into lines for event streams, in the way that VoidRun's clients read them."""

from __future__ import annotations

import codecs

_LONGEST = 64 * 1024


class Lines:
    """Splits a stream of bytes, which arrives in chunks of any size, into lines of text.

    A line ends at every character at which one of the clients would break it: line feeds, carriage returns, form feeds,
    Unicode's separators. Bytes that are not UTF-8 become replacement characters; lines longer than 64 Ki characters are
    split.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._after_return = False

    @property
    def pending(self) -> bool:
        """Whether there is an unfinished line."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """Add a chunk, and return the lines that end in it."""
        return self._cut(self._decoder.decode(data))

    def flush(self) -> list[str]:
        """Return the unfinished line as a line, because nothing follows for the moment."""
        rest, self._rest = self._rest, ""
        return [rest] if rest else []

    def end(self) -> list[str]:
        """Return the rest at the end of the stream."""
        return self._cut(self._decoder.decode(b"", final=True)) + self.flush()

    def _cut(self, text: str) -> list[str]:
        if not text:
            return []
        if self._after_return:
            text = text.removeprefix("\n")
        self._after_return = text.endswith("\r")
        pieces = (self._rest + text).splitlines(keepends=True)
        whole = [piece.splitlines()[0] for piece in pieces]
        self._rest = pieces[-1] if pieces and pieces[-1] == whole[-1] else ""
        lines = whole[:-1] if self._rest else whole
        return lines + self.flush() if len(self._rest) > _LONGEST else lines


def event(name: str, text: str) -> str:
    """Format a server-sent event; the text is a single line.

    Some clients strip one blank after the colon, others do not: so one is added only to protect a blank of the text.
    """
    blank = " " if text.startswith(" ") else ""
    return f"event: {name}\ndata:{blank}{text}\n\n"
