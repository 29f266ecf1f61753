"""Formats file results: a directory as lines, one file as an object, the matches of a search."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..wire import timestamp

if TYPE_CHECKING:
    from vmm.guest.values import FileInfo, Listing, SearchResult

_TYPES = {"file": "file", "directory": "directory", "symlink": "symlink", "other": "special file"}


def listing_text(path: str, listing: Listing, *, budget: int) -> str:
    """Format a directory: mode, size in bytes, modification time in UTC, name; a slash or an arrow marks its type.

    Args:
        path: The directory.
        listing: Its entries.
        budget: The maximum number of characters.
    """
    if not listing.entries:
        return f"{path} is empty"
    width = max(len(str(entry.size)) for entry in listing.entries)
    lines = [_line(entry, width) for entry in listing.entries]
    shown = _fitting(lines, budget)
    rest = len(lines) - len(shown)
    if rest or listing.truncated:
        many = f"{rest} more" if not listing.truncated else f"at least {rest + 1} more"
        shown.append(f"[{many}: list a directory below, or narrow it down with search_files]")
    return "\n".join(shown)


def info_object(info: FileInfo) -> dict[str, Any]:
    """Convert file information to JSON."""
    facts: dict[str, Any] = {
        "path": _readable(info.path),
        "type": _TYPES[info.kind],
        "size": info.size,
        "mode": stat.filemode(info.mode),
        "uid": info.uid,
        "gid": info.gid,
        "modified": timestamp(info.mtime_ms),
    }
    return {**facts, "target": _readable(info.target)} if info.target else facts


def matches_text(result: SearchResult, *, budget: int) -> str:
    """Format matches as `path`, or as `path:line: text` for a content search."""
    if not result.matches:
        return "No match, but the search ended before it had seen everything" if result.truncated else "No match"
    lines = [
        f"{_readable(match.path)}:{match.line_number}: {_readable(match.line)}"
        if match.line_number
        else _readable(match.path)
        for match in result.matches
    ]
    shown = _fitting(lines, budget)
    rest = len(lines) - len(shown)
    if rest:
        shown.append(f"[{rest} more matches left out: narrow the search]")
    elif result.truncated:
        shown.append("[there may be more matches: narrow the search]")
    return "\n".join(shown)


def _line(entry: FileInfo, width: int) -> str:
    changed = datetime.fromtimestamp(entry.mtime_ms / 1000, UTC)
    name = _readable(entry.path.rstrip("/").rsplit("/", 1)[-1])
    mark = {"directory": "/", "symlink": f" -> {_readable(entry.target)}"}.get(entry.kind, "")
    return f"{stat.filemode(entry.mode)} {entry.size:>{width}} {changed:%Y-%m-%d %H:%M} {name}{mark}"


def _fitting(lines: list[str], budget: int) -> list[str]:
    used = 0
    for count, line in enumerate(lines):
        used += len(line) + 1
        if used > budget:
            return lines[:count]
    return list(lines)


def _readable(text: str) -> str:
    """Escape unprintable characters, which file names may contain."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
