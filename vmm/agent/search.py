"""Finding files by name and by content, within a limit of hits and of time."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from fnmatch import translate
from re import Pattern
from re import compile as compile_pattern
from typing import Any

from .arguments import Arguments
from .channel import Channel
from .entries import text
from .refusals import from_os_error, invalid

_MADE_UP = frozenset((b"/proc", b"/sys", b"/dev"))
_PIECE = 1024 * 1024
_MAX_FILE = 256 * 1024 * 1024
_MAX_LINE = 500
_MAX_LIMIT = 10_000


class Search:
    """The host's search call."""

    def find(self, channel: Channel, arguments: Arguments) -> None:
        """Hits in path order; stops early when the peer goes away."""
        path = arguments.path()
        name, content = arguments.raw("name", ""), arguments.raw("content", "")
        limit = min(arguments.integer("limit", 100, least=1), _MAX_LIMIT)
        deadline = time.monotonic() + arguments.integer("timeout_ms", 10_000) / 1000
        if not (name or content):
            raise invalid("search: give a name, a content or both")
        if len(content) > _PIECE // 2:
            raise invalid(f"content: {len(content)} bytes are too long to search for")
        pattern = compile_pattern(translate(name.decode()).encode()) if name else None
        try:
            files = _walk(path, pattern)
            found: list[dict[str, Any]] = []
            truncated = False
            for count, (file, status) in enumerate(files):
                if time.monotonic() > deadline or (count % 256 == 255 and channel.gone()):
                    truncated = True
                    break
                hit = _match(file, status, content, deadline)
                if hit is None:
                    continue
                if len(found) == limit:
                    truncated = True
                    break
                found.append(hit)
        except OSError as error:
            raise from_os_error(error, path) from error
        channel.send_result({"matches": found, "truncated": truncated or time.monotonic() > deadline})


def _walk(path: bytes, pattern: Pattern[bytes] | None) -> Iterator[tuple[bytes, os.stat_result]]:
    """Everything below, depth first in name order, without the made-up file systems unless the walk begins there."""
    if not stat.S_ISDIR(os.stat(path).st_mode):
        if pattern is None or pattern.match(path.rpartition(b"/")[2]):
            yield path, os.stat(path)
        return
    pending = [path.rstrip(b"/") or b"/"]
    while pending:
        current = pending.pop()
        status = _status(current)
        if status is None:
            continue
        if current != path and (pattern is None or pattern.match(current.rpartition(b"/")[2])):
            yield current, status
        if stat.S_ISDIR(status.st_mode) and (current not in _MADE_UP or current == path):
            pending.extend(_below(current))


def _below(directory: bytes) -> list[bytes]:
    try:
        with os.scandir(directory) as entries:
            return sorted((entry.path for entry in entries), reverse=True)
    except OSError:
        return []  # Unreadable or gone meanwhile: the rest of the search is worth having.


def _status(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _match(path: bytes, status: os.stat_result, content: bytes, deadline: float) -> dict[str, Any] | None:
    if not content:
        return {"path": text(path), "line_number": 0, "line": ""}
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return _scan(path, descriptor, content, deadline)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _scan(path: bytes, descriptor: int, content: bytes, deadline: float) -> dict[str, Any] | None:
    """The first line with the content; a file whose first kilobytes hold a NUL is no text."""
    lines_before = 0
    held = b""
    first = True
    while time.monotonic() <= deadline:
        piece = os.read(descriptor, _PIECE)
        if first and b"\0" in piece[:8192]:
            return None
        first = False
        whole = held + piece
        at = whole.find(content)
        if at >= 0:
            begin = whole.rfind(b"\n", 0, at) + 1
            rest = b"" if b"\n" in whole[at:] else os.read(descriptor, _MAX_LINE)
            end = (whole + rest).find(b"\n", at + len(content))
            line = (whole + rest)[begin : end if end >= 0 else None]
            number = lines_before + whole.count(b"\n", 0, at) + 1
            return {"path": text(path), "line_number": number, "line": line[:_MAX_LINE].decode("utf-8", "replace")}
        if not piece:
            return None
        # What begins in this piece may end in the next: keep the last line as far as it is of a sensible length.
        keep = max(len(content) - 1, min(len(whole) - whole.rfind(b"\n") - 1, 4 * _MAX_LINE))
        held = whole[len(whole) - keep :] if keep else b""
        lines_before += whole.count(b"\n", 0, len(whole) - keep)
    return None
