"""Conversion of documents to their form in MongoDB: escaped field names, and the mark of the last write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from .collection import Document

MARK = "%write"
"""The field that identifies the last write of a document. Escaping keeps documents from having a field of this name."""

# Dollars and dots in names have a meaning to the server, NUL is not allowed, and the driver reads
# {"$ref": ..., "$id": ...} as a reference. All are escaped everywhere, because one rule is simpler than several.
_SPECIAL = re.compile(r"[%$.\0]")
_ESCAPED = re.compile(r"%(25|24|2E|00)")


def to_stored(document: Mapping[str, Any], mark: str) -> Document:
    """Convert a document to its stored form, with the mark of the write."""
    return {**cast("Document", _renamed(document, _escape)), MARK: mark}


def from_stored(found: Mapping[str, Any]) -> Document:
    """Convert a stored document back, without the mark."""
    return cast("Document", _renamed({name: value for name, value in found.items() if name != MARK}, _unescape))


def _renamed(value: object, rename: Any) -> object:
    if isinstance(value, dict):
        return {rename(name): _renamed(inner, rename) for name, inner in cast("Document", value).items()}
    if isinstance(value, list):
        return [_renamed(inner, rename) for inner in cast("list[object]", value)]
    # The driver returns large integers as its own type.
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _escape(name: str) -> str:
    return _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", name)


def _unescape(name: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)
