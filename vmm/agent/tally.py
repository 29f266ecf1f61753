"""What an archive holds or brought, and what was left out on the way: that is told, and the rest goes on."""

from __future__ import annotations

import json
from typing import Any, cast

from .entries import text

COMMENT = b"comment"
"""The extended record in which an archive tells what was left out as it was packed: every tar passes over comments."""

_KEY = "casemate.skipped"
_MOST = 1000
_LONGEST = 300


class Tally:
    """Counts.

    Attributes:
        files: Members, directories left aside.
        size: Bytes of content.
        skipped: How many were left out.
        listed: Name and reason of the first thousand of these.
    """

    def __init__(self) -> None:
        self.files = 0
        self.size = 0
        self.skipped = 0
        self.listed: list[tuple[str, str]] = []

    def skip(self, path: bytes, reason: str) -> None:
        """One more is left out."""
        self.skipped += 1
        if len(self.listed) < _MOST:
            self.listed.append((_short(text(path) or "."), reason))

    def report(self) -> dict[str, Any]:
        """All of it, for the host."""
        return {"files": self.files, "size": self.size, "skipped": self.skipped, "listed": self.listed}

    def comment(self) -> bytes:
        """What was left out, as one line for an archive."""
        return json.dumps({_KEY: self.listed, "count": self.skipped}, separators=(",", ":")).encode()

    def take(self, comment: bytes) -> None:
        """Add what an archive tells was left out; any other comment is nothing."""
        try:
            told: object = json.loads(comment)
        except (ValueError, RecursionError):
            return
        if not isinstance(told, dict):
            return
        values = cast("dict[str, Any]", told)
        listed, count = values.get(_KEY), values.get("count")
        if not isinstance(listed, list) or not isinstance(count, int):
            return
        for item in cast("list[object]", listed)[: _MOST - len(self.listed)]:
            match item:
                case [str(name), str(reason)]:
                    self.listed.append((_short(name), _short(reason)))
                case _:
                    pass
        self.skipped += max(count, 0)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 80]}...{name[-77:]}"
