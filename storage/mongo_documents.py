"""Documents as MongoDB keeps them: the same fields, names that every server takes, and the mark of the last write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from .collection import Document

MARK = "%write"
"""The field that says which write made the document what it is. No document's own field can have this name."""

# A dollar or a dot in a name means something to the server, NUL cannot be in one, and the driver takes
# {"$ref": ..., "$id": ...} for a reference. Escaped everywhere, as one rule is easier to keep than many.
_SPECIAL = re.compile(r"[%$.\0]")
_ESCAPED = re.compile(r"%(25|24|2E|00)")


def to_stored(document: Mapping[str, Any], mark: str) -> Document:
    """The document as it is sent, with the mark of the write that sends it."""
    return {**cast("Document", _renamed(document, _escape)), MARK: mark}


def from_stored(found: Mapping[str, Any]) -> Document:
    """The document as its owner knows it."""
    return cast("Document", _renamed({name: value for name, value in found.items() if name != MARK}, _unescape))


def _renamed(value: object, rename: Any) -> object:
    if isinstance(value, dict):
        return {rename(name): _renamed(inner, rename) for name, inner in cast("Document", value).items()}
    if isinstance(value, list):
        return [_renamed(inner, rename) for inner in cast("list[object]", value)]
    # The driver gives large integers a type of its own.
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _escape(name: str) -> str:
    return _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", name)


def _unescape(name: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)
