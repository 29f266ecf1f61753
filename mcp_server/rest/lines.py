"""Splits output into the events of a stream, such that VoidRun's clients put the same output together again.

An event is a line with its end, or a part of a long or unfinished one, so that the events' texts in a row are the
output. In an event, each line of its text is a `data:` field; an empty last one stands for the line's end.

Its client for Python breaks lines at all of Unicode's line separators, and takes blanks off both ends of each field;
the one for TypeScript breaks them at line feeds, and takes blanks off their ends alone. So it loses the blanks that
lines end with, and the other one also those that they begin with, however events are cut; and line separators become
line feeds for both. No blank is added after `data:`, which the one for TypeScript would keep, so that readers which
follow the standard lose one that a line begins with. For programs that need each byte there is the binary form.
"""

from __future__ import annotations

import codecs
import re

_LONG = 64 * 1024
_LONGEST = 1024 * 1024
_SEEN = 4 * 1024
_BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff"
"""What one of the clients takes off; the mark of byte order is a blank in JavaScript."""
_LAST_SEAM = re.compile(rf".*[^{_BLANKS}](?=[^{_BLANKS}])", re.DOTALL)


class Lines:
    """Splits a stream of bytes, which arrives in chunks of any size, into texts of events.

    Bytes that are not UTF-8 become replacement characters. Lines are split where they are longer than 64 Ki characters,
    between two characters that are not blanks.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._after_return = False

    @property
    def pending(self) -> bool:
        """Whether there is a part of a line that `pause` would return."""
        return _seam(self._rest) > 0

    @property
    def unfinished(self) -> bool:
        """Whether there is a part of a line that `show` would return."""
        return bool(self._rest.rstrip(_BLANKS))

    def feed(self, data: bytes) -> list[str]:
        """Add a chunk, and return what ends in it."""
        return self._cut(self._decoder.decode(data))

    def pause(self) -> list[str]:
        """Return a part of the unfinished line, because nothing follows for the moment.

        Its last word's end is held back: a blank that follows would be at the beginning of the next event.
        """
        seam = _seam(self._rest)
        part, self._rest = self._rest[:seam], self._rest[seam:]
        return [part] if part else []

    def show(self) -> list[str]:
        """Return the unfinished line but for the blanks at its end, such as that of a prompt."""
        part = self._rest.rstrip(_BLANKS)
        self._rest = self._rest[len(part) :]
        return [part] if part else []

    def end(self) -> list[str]:
        """Return the rest, at the end of the stream or before a gap in it."""
        found = self._cut(self._decoder.decode(b"", final=True))
        rest, self._rest = self._rest, ""
        return [*found, rest] if rest else found

    def _cut(self, text: str) -> list[str]:
        if not text:
            return []
        if self._after_return:
            text = text.removeprefix("\n")
        self._after_return = text.endswith("\r")
        found: list[str] = []
        for piece in (self._rest + text).splitlines(keepends=True):
            (line,) = piece.splitlines()
            found.append(line if line == piece else f"{line}\n")
        self._rest = found.pop() if found and not found[-1].endswith("\n") else ""
        if len(self._rest) > _LONGEST:
            found.append(self._rest)
            self._rest = ""
        elif len(self._rest) > _LONG:
            found += self.pause()
        return found


def event(name: str, text: str) -> str:
    """Format a server-sent event. Of line separators the text may contain line feeds alone."""
    fields = "".join(f"data:{line}\n" for line in text.split("\n"))
    return f"event: {name}\n{fields}\n"


def _seam(text: str) -> int:
    """Return where to split a text that may go on: between the last two characters in a row that are no blanks."""
    found = _LAST_SEAM.match(text, max(len(text) - _SEEN, 0))
    return found.end() if found else 0
