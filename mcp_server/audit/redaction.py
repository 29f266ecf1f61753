"""Redaction of a call's arguments: a short text without file contents, values of variables, or credentials.

Pure. Names decide first (a value that is called a password is hidden completely), then patterns in the text itself, so
that a key in the middle of a command line is hidden too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

MOST_BYTES = 2048
"""The maximum size of the redacted arguments."""

_STRING = 200
# Patterns are searched beyond the cut, so that a credential across it is recognised completely.
_AHEAD = 512
_DEEPEST = 6
_ITEMS = 50
_HIDDEN = "[hidden]"
# No pattern matches a shorter text, and most names and many values are shorter.
_SHORTEST = 8

_SECRET_NAME = re.compile(
    r"secret|token|ticket|passw|passphrase|pwd|api.?key|private.?key|credential|cookie|authorization|(^|[_.-])(key|auth)$|Key$",
    re.IGNORECASE,
)
_CONTENT_NAMES = frozenset({"content", "contents", "data", "stdin"})
_ENVIRONMENT_NAMES = frozenset({"env", "envvars", "env_vars", "environment"})

_PEM = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)"
_KNOWN = (
    r"(?:c[mit]|vr)_[A-Za-z0-9_-]{8,}",
    r"sk-[A-Za-z0-9_-]{12,}",
    r"gh[pousr]_[A-Za-z0-9]{12,}",
    r"github_pat_[A-Za-z0-9_]{12,}",
    r"glpat-[A-Za-z0-9_-]{12,}",
    r"xox[abeoprs]-[A-Za-z0-9-]{8,}",
    r"A(?:KI|SI)A[A-Z0-9]{12,}",
    r"AIza[A-Za-z0-9_-]{20,}",
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?",
)
_CREDENTIAL = re.compile(f"{_PEM}|{'|'.join(_KNOWN)}", re.DOTALL)
_HEADER = re.compile(r"\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^/\s:@]{0,100}:)[^/\s@]{1,400}(?=@)")
_NAMED = (
    r"(?:secret|token|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key|private[_-]?key|credentials?)"
    r"[A-Za-z0-9_-]{0,40}"
)
# NAME=value, "name": value, and --name value; a space as the separator counts only after the dashes of an option.
_ASSIGNED = re.compile(
    rf"({_NAMED}[\"']?\s{{0,4}}[=:]\s{{0,4}}|--?[A-Za-z0-9_-]{{0,40}}{_NAMED}\s{{1,4}})"
    r"(\"[^\"]{1,400}\"|'[^']{1,400}'|[^\s\"'&;|]{1,400})",
    re.IGNORECASE,
)


def redact_arguments(arguments: Mapping[str, object]) -> str:
    """Redact arguments into a JSON text of at most 2 KiB, truncated with an ellipsis."""
    room = _Room(MOST_BYTES)
    text = json.dumps(_mapping(arguments, room, 0), ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", "replace")
    if len(data) <= MOST_BYTES:
        return data.decode()
    return f"{data[: MOST_BYTES - 3].decode(errors='ignore')}…"


def redact_text(text: str, most: int = _STRING) -> str:
    """Redact everything in a text that looks like a credential, and truncate it to at most `most` characters."""
    if len(text) < _SHORTEST:
        return text
    seen = text[: most + _AHEAD]
    seen = _CREDENTIAL.sub(_HIDDEN, seen)
    seen = _HEADER.sub(_behind, seen)
    if "://" in seen:
        seen = _URL_PASSWORD.sub(_behind, seen)
    seen = _ASSIGNED.sub(_behind, seen)
    return seen if len(seen) <= most and len(text) <= most + _AHEAD else f"{seen[: most - 1]}…"


def _behind(match: re.Match[str]) -> str:
    """Keep the text before a secret, and hide the secret."""
    return f"{match[1]}{_HIDDEN}"


class _Room:
    """The number of characters left; when they are used up, further arguments are skipped."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, text: str) -> str:
        self.left -= len(text)
        return text


def _mapping(given: Mapping[str, object], room: _Room, depth: int) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in given.items():
        if room.left <= 0 or len(result) >= _ITEMS:
            result["…"] = len(given) - len(result)
            break
        shown = room.take(redact_text(str(name), 80))
        result[shown] = _named(str(name), value, room, depth + 1)
    return result


def _named(name: str, value: object, room: _Room, depth: int) -> object:
    if _SECRET_NAME.search(name) and not isinstance(value, bool) and value not in (None, ""):
        return room.take(_HIDDEN)
    if name.lower() in _ENVIRONMENT_NAMES:
        return _names(value, room)
    if name.lower() in _CONTENT_NAMES and isinstance(value, str):
        return room.take(f"[{len(value)} characters]")
    return _value(value, room, depth)


def _names(value: object, room: _Room) -> object:
    """Return only the names of an environment, which is a mapping or a list of NAME=value."""
    if isinstance(value, Mapping):
        given = [str(name) for name in cast("Mapping[object, object]", value)]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        given = [str(item).partition("=")[0] for item in cast("Sequence[object]", value)]
    else:
        return _HIDDEN
    return [room.take(redact_text(name, 80)) for name in given[:_ITEMS] if room.left > 0]


def _value(value: object, room: _Room, depth: int) -> object:
    match value:
        case str():
            return room.take(redact_text(value))
        case None | bool():
            return value
        case int() | float():
            text = repr(value) if isinstance(value, float) or value.bit_length() <= 64 else "[a huge number]"
            return room.take(text)
        case Mapping() if depth < _DEEPEST:
            return _mapping(cast("Mapping[str, object]", value), room, depth)
        case Sequence() if depth < _DEEPEST and not isinstance(value, bytes | bytearray):
            items = cast("Sequence[object]", value)
            return [_value(item, room, depth + 1) for item in items[:_ITEMS] if room.left > 0]
        case _:
            return f"[{type(value).__name__}]"
