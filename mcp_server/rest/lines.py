"""Output cut into lines for event streams, the way that VoidRun's clients read them."""

from __future__ import annotations

import codecs

_LONGEST = 64 * 1024


class Lines:
    """Cuts a stream of bytes into lines of text, whatever pieces it comes in.

    Besides line feeds, everything ends a line at which one of the clients would break: carriage returns, form feeds,
    Unicode's separators. Bytes that are no UTF-8 become replacement characters; lines longer than 64 Ki characters come
    in parts.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._after_return = False

    @property
    def pending(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """The lines that end in this piece."""
        return self._cut(self._decoder.decode(data))

    def flush(self) -> list[str]:
        """What stands in the last line so far, as a line of its own: nothing more comes for the moment."""
        rest, self._rest = self._rest, ""
        return [rest] if rest else []

    def end(self) -> list[str]:
        """What is left when nothing more comes."""
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
    """One server-sent event; the text is one line.

    A reader takes one blank away after the colon, or keeps it: so there is one only where it saves the text's own.
    """
    blank = " " if text.startswith(" ") else ""
    return f"event: {name}\ndata:{blank}{text}\n\n"
