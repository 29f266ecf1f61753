"""Validation of documents and declarations, shared by all adapters so that they refuse the same ones."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, cast

from .collection import CollectionSpec, Document, Value
from .errors import InvalidDocument, InvalidQuery
from .shown import shown

MAX_BYTES = 8 * 1024 * 1024
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_NAME = re.compile(r"(?!sqlite_|system$|store_format$)[a-z][a-z0-9_]{0,40}")
_FIELD = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_DEEPEST = 50
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def check_spec(spec: CollectionSpec) -> None:
    """Refuse a declaration that not every adapter supports.

    Raises:
        InvalidQuery: A name has other characters than lower-case letters, digits and underscores, or is used twice; two
            indexes have the same fields; a sparse index has more than one field.
    """
    names = [index.name for index in spec.indexes]
    for name in (spec.name, *names):
        if not _NAME.fullmatch(name):
            raise InvalidQuery(f"Name {shown(name)} in collection {shown(spec.name)} must match {_NAME.pattern}")
    if len(set(names)) < len(names):
        raise InvalidQuery(f"Collection {spec.name} declares an index twice: {', '.join(names)}")
    for index in spec.indexes:
        if not index.fields or len(set(index.fields)) < len(index.fields):
            raise InvalidQuery(f"Index {index.name} of {spec.name} must have distinct fields, got {index.fields}")
        for field in index.fields:
            if not _FIELD.fullmatch(field):
                raise InvalidQuery(f"Field {shown(field)} of index {index.name} must match {_FIELD.pattern}")
        # MongoDB leaves a document out of a sparse index only if it has none of the fields.
        if index.sparse and len(index.fields) > 1:
            raise InvalidQuery(f"Sparse index {index.name} of {spec.name} must have one field, got {index.fields}")
    if len({index.order for index in spec.indexes}) < len(spec.indexes):
        raise InvalidQuery(f"Two indexes of {spec.name} have the same fields: remove one of them")


def encode(spec: CollectionSpec, document: Mapping[str, Any], *, version: int) -> tuple[Document, str]:
    """Validate a document; return a copy with the given version, and its JSON text.

    Raises:
        InvalidDocument: The document cannot be stored.
    """
    text = as_text(spec, {**document, "version": version})
    return cast("Document", json.loads(text)), text


def as_text(spec: CollectionSpec, document: Document) -> str:
    """Validate a complete document and return its JSON text.

    Raises:
        InvalidDocument: The document cannot be stored.
    """
    if not is_value(document.get("_id")) or not isinstance(document["_id"], str) or not document["_id"]:
        raise InvalidDocument(f"Field _id of {spec.name} must be a non-empty string, got {shown(document.get('_id'))}")
    _check(spec, "", document, 0)
    for index in spec.indexes:
        for field in index.fields:
            if not is_value(document.get(field)) and not (index.sparse and field not in document):
                raise InvalidDocument(
                    f"Field {field} of {spec.name} must be a string or a 64-bit integer for index {index.name}, "
                    f"got {shown(document.get(field))}"
                )
    text = _JSON.encode(document)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidDocument(f"{_named(spec, document)} has a string that is not valid Unicode") from error
    if size > MAX_BYTES:
        raise InvalidDocument(f"{_named(spec, document)} must have at most {MAX_BYTES} bytes, got {size}")
    return text


def version_of(spec: CollectionSpec, document: Mapping[str, Any]) -> int:
    """Return the document's version.

    Raises:
        InvalidDocument: It has no valid version.
    """
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version < _INT_MAX:
        raise InvalidDocument(f"Field version of {spec.name} must be a positive integer, got {shown(version)}")
    return version


def is_value(value: object) -> bool:
    """Return whether an index can hold the value: a 64-bit integer, or a Unicode string without NUL."""
    if isinstance(value, str):
        # Most strings are ASCII, which is known without a loop over the characters.
        return "\0" not in value and (value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value))
    return isinstance(value, int) and not isinstance(value, bool) and _INT_MIN <= value <= _INT_MAX


def as_value(name: str, value: object) -> Value:
    """Return the value if an index can hold it.

    Raises:
        InvalidQuery: No index can hold it.
    """
    if not is_value(value):
        raise InvalidQuery(f"Value of {name} must be a string or a 64-bit integer, got {shown(value)}")
    return cast("Value", value)


def _named(spec: CollectionSpec, document: Document) -> str:
    return f"Document {shown(document['_id'])} of {spec.name}"


def _check(spec: CollectionSpec, path: str, value: object, depth: int) -> None:
    if depth > _DEEPEST:
        raise InvalidDocument(f"Field {path[:80]} of {spec.name} must be nested at most {_DEEPEST} levels deep")
    if isinstance(value, dict):
        for name, inner in cast("dict[object, object]", value).items():
            if not isinstance(name, str):
                raise InvalidDocument(f"Keys in field {path[:80]} of {spec.name} must be strings, got {shown(name)}")
            if not isinstance(inner, str):  # strings are checked all at once, when they are encoded
                _check(spec, f"{path}.{name}" if path else name, inner, depth + 1)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            _check(spec, path, inner, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidDocument(f"Field {path[:80]} of {spec.name} must be finite for JSON, got {value}")
    elif isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise InvalidDocument(f"Field {path[:80]} of {spec.name} must fit into 64 bits, got {shown(value)}")
    elif value is not None and not isinstance(value, str):
        raise InvalidDocument(f"Field {path[:80]} of {spec.name} must be a JSON value, got a {type(value).__name__}")
