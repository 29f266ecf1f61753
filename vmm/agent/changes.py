"""Changes of files on their way to the host: collected for a moment, so that a repeated one is sent once."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from typing import Any

from .entries import text

CREATED, MODIFIED, DELETED, RENAMED, CHMOD = "created", "modified", "deleted", "renamed", "chmod"
OVERFLOW, UNMOUNTED = "overflow", "unmounted"

_MOST = 512
"""Changes that are collected at most."""
_PIECE = 128 * 1024
"""Bytes after which a piece is sent: with one more change, two long paths of escaped bytes, it still fits a frame."""
_SAID_BY = {CHMOD: (CREATED, CHMOD), MODIFIED: (CREATED, MODIFIED), OVERFLOW: (OVERFLOW,)}
"""What need not be told of a path after something else, which is told with the size that the file has by then."""


class Changes:
    """Collects changes in their order.

    Args:
        send: Sends a piece: one JSON object a line.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._changes: list[dict[str, Any]] = []
        self._paths: list[bytes] = []
        self._last: dict[bytes, int] = {}

    def add(self, kind: str, path: bytes, *, directory: bool = False, old: bytes = b"", reason: str = "") -> None:
        """Add a change; sends what was collected if that is much.

        Args:
            kind: One of this module's kinds.
            path: What has changed.
            directory: Whether that is a directory.
            old: Its path until now, if it was renamed.
            reason: What a person should know of it.
        """
        last = self._last.get(path)
        if last is not None and self._changes[last]["type"] in _SAID_BY.get(kind, ()):
            return
        change: dict[str, Any] = {"type": kind, "path": text(path), "directory": directory}
        if old:
            change["old_path"] = text(old)
        if reason:
            change["reason"] = reason
        change["time_ms"] = time.time_ns() // 1_000_000
        self._last[path] = len(self._changes)
        self._paths.append(path)
        self._changes.append(change)
        if len(self._changes) >= _MOST:
            self.flush()

    def flush(self) -> None:
        """Send what was collected."""
        changes, paths = self._changes, self._paths
        self._changes, self._paths, self._last = [], [], {}
        piece = bytearray()
        for change, path in zip(changes, paths, strict=True):
            if change["type"] in {CREATED, MODIFIED} and not change["directory"]:
                change["size"] = _size(path)
            piece += json.dumps(change, separators=(",", ":")).encode() + b"\n"
            if len(piece) >= _PIECE:
                self._send(bytes(piece))
                piece.clear()
        if piece:
            self._send(bytes(piece))


def _size(path: bytes) -> int | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None  # It is gone again.
    return status.st_size if stat.S_ISREG(status.st_mode) else None
