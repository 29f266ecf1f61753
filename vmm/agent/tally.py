"""Counts of what was packed or unpacked, and the list of entries that were skipped."""

from __future__ import annotations

import json
from typing import Any, cast

from .entries import text

COMMENT = b"comment"
"""The extended record with the entries that were skipped at packing. Every tar program ignores comments."""

_KEY = "casemate.skipped"
_MAX_LISTED = 1000
_MAX_TEXT = 300


class Tally:
    """Counts of files and bytes, and the skipped entries.

    Attributes:
        files: Number of members, not counting directories.
        size: Bytes of content.
        skipped: Number of skipped entries.
        listed: Name and reason of the first thousand skipped entries.
    """

    def __init__(self) -> None:
        self.files = 0
        self.size = 0
        self.skipped = 0
        self.listed: list[tuple[str, str]] = []

    def skip(self, path: bytes, reason: str) -> None:
        """Count a skipped entry."""
        self.skipped += 1
        if len(self.listed) < _MAX_LISTED:
            self.listed.append((_short(text(path) or "."), reason))

    def report(self) -> dict[str, Any]:
        """Return all counts for the host."""
        return {"files": self.files, "size": self.size, "skipped": self.skipped, "listed": self.listed}

    def comment(self) -> bytes:
        """Return the skipped entries as one line for the archive."""
        return json.dumps({_KEY: self.listed, "count": self.skipped}, separators=(",", ":")).encode()

    def add_comment(self, comment: bytes) -> None:
        """Add the skipped entries from an archive's comment; ignore any other comment."""
        try:
            value: object = json.loads(comment)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, dict):
            return
        values = cast("dict[str, Any]", value)
        listed, count = values.get(_KEY), values.get("count")
        if not isinstance(listed, list) or not isinstance(count, int):
            return
        for item in cast("list[object]", listed)[: _MAX_LISTED - len(self.listed)]:
            match item:
                case [str(name), str(reason)]:
                    self.listed.append((_short(name), _short(reason)))
                case _:
                    pass
        self.skipped += max(count, 0)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_TEXT else f"{name[: _MAX_TEXT - 80]}...{name[-77:]}"
