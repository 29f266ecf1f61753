"""Searching files by name and content, with limits on the number of matches and on time."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from fnmatch import translate
from re import compile as compile_pattern
from typing import Any

from .arguments import Arguments
from .channel import Channel
from .entries import kind_of, open_regular, text
from .refusals import RefusalError, from_os_error, invalid

_KERNEL_FILE_SYSTEMS = frozenset((b"/proc", b"/sys", b"/dev"))
_PIECE = 1024 * 1024
_MAX_FILE = 256 * 1024 * 1024
_MAX_LINE = 500
_MAX_LIMIT = 10_000


class Search:
    """The host's search call."""

    def find(self, channel: Channel, arguments: Arguments) -> None:
        """Answer with the matches in path order; stop early if the peer disconnects."""
        path = arguments.path()
        name, content = arguments.raw("name", ""), arguments.raw("content", "")
        limit = min(arguments.integer("limit", 100, least=1), _MAX_LIMIT)
        deadline = time.monotonic() + arguments.integer("timeout_ms", 10_000) / 1000
        if not (name or content):
            raise invalid("search must have a name, a content or both, got neither")
        if len(content) > _PIECE // 2:
            raise invalid(f"content must be at most {_PIECE // 2} bytes, got {len(content)}")
        pattern = compile_pattern(translate(name.decode()).encode()) if name else None
        found: list[dict[str, Any]] = []
        truncated = False
        try:
            for count, (file, kind) in enumerate(_walk(path)):
                if time.monotonic() > deadline or (count % 256 == 255 and channel.gone()):
                    truncated = True
                    break
                if pattern is not None and pattern.match(file.rpartition(b"/")[2]) is None:
                    continue
                hit = _match(file, kind, content, deadline)
                if hit is None:
                    continue
                if len(found) == limit:
                    truncated = True
                    break
                found.append(hit)
            else:
                truncated = time.monotonic() > deadline  # The search of the last file may have been cut short.
        except OSError as error:
            raise from_os_error(error, path) from error
        channel.send_result({"matches": found, "truncated": truncated})


def _walk(path: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield every entry below a path with its kind, in name order; enter /proc, /sys and /dev only as the start."""
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        yield path, kind_of(status.st_mode)
        return
    pending = _entries(path.rstrip(b"/") or b"/", strict=True)
    while pending:
        current, kind = pending.pop()
        yield current, kind
        if kind == "directory" and current not in _KERNEL_FILE_SYSTEMS:
            pending.extend(_entries(current))


def _entries(directory: bytes, *, strict: bool = False) -> list[tuple[bytes, str]]:
    """Return the entries of a directory, last name first. An unreadable one has none, unless `strict`."""
    try:
        with os.scandir(directory) as entries:
            return sorted(((entry.path, _kind(entry)) for entry in entries), reverse=True)
    except OSError:
        if strict:
            raise
        return []


def _kind(entry: os.DirEntry[bytes]) -> str:
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def _match(path: bytes, kind: str, content: bytes, deadline: float) -> dict[str, Any] | None:
    if not content:
        return {"path": text(path), "line_number": 0, "line": ""}
    if kind != "file":
        return None
    try:
        descriptor, status = open_regular(path)
    except RefusalError:
        return None  # Unreadable or deleted meanwhile, which must not end the search.
    try:
        return None if status.st_size > _MAX_FILE else _scan(path, descriptor, content, deadline)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _scan(path: bytes, descriptor: int, content: bytes, deadline: float) -> dict[str, Any] | None:
    """Find the first line with the content. A file with a NUL in its first 8 KiB counts as binary and never matches."""
    lines_before = 0
    carried = b""
    first = True
    while time.monotonic() <= deadline:
        piece = os.read(descriptor, _PIECE)
        if first and b"\0" in piece[:8192]:
            return None
        first = False
        window = carried + piece
        at = window.find(content)
        if at >= 0:
            begin = window.rfind(b"\n", 0, at) + 1
            rest = b"" if b"\n" in window[at:] else os.read(descriptor, _MAX_LINE)
            end = (window + rest).find(b"\n", at + len(content))
            line = (window + rest)[begin : end if end >= 0 else None]
            number = lines_before + window.count(b"\n", 0, at) + 1
            return {"path": text(path), "line_number": number, "line": line[:_MAX_LINE].decode("utf-8", "replace")}
        if not piece:
            return None
        # A match may span two pieces: keep the last line, up to a limit.
        keep = max(len(content) - 1, min(len(window) - window.rfind(b"\n") - 1, 4 * _MAX_LINE))
        carried = window[len(window) - keep :] if keep else b""
        lines_before += window.count(b"\n", 0, len(window) - keep)
    return None
