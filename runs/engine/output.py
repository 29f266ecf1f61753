"""What is kept of a program's output: all of what others read, and the end of what only people look at."""

from __future__ import annotations

MOST_BYTES = 16 * 1024 * 1024
"""The largest output that is handed on."""

_TAIL = 4096


class OutputTooLarge(Exception):
    """An output that is handed on is larger than MOST_BYTES."""


class KeptOutput:
    """The output of one attempt.

    Args:
        whole: Whether stdout is handed on, so that all of it is kept.
    """

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}

    async def take(self, stream: str, data: bytes) -> None:
        """Keep a piece of output.

        Raises:
            OutputTooLarge: There is too much of what has to be kept whole.
        """
        kept = self._kept[stream]
        kept += data
        if stream == "stdout" and self._whole:
            if len(kept) > MOST_BYTES:
                raise OutputTooLarge
        elif len(kept) > 2 * _TAIL:
            del kept[:-_TAIL]

    @property
    def stdout(self) -> bytes:
        """All of stdout, or its end if it is not handed on."""
        return bytes(self._kept["stdout"])

    def last_words(self) -> str:
        """Return the last line with text in it that went to stderr, or else to stdout."""
        for stream in ("stderr", "stdout"):
            lines = self._kept[stream][-_TAIL:].decode("utf-8", "replace").splitlines()
            if said := next((line.strip() for line in reversed(lines) if line.strip()), ""):
                return said
        return ""
