"""What a document and a declaration may be: checked in one place, so that every adapter refuses the same."""

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
    """Refuse a declaration that some adapter could not keep.

    Raises:
        InvalidQuery: A name is not lower-case letters, digits and underscores, or is there twice; two indexes have
            the same fields; a sparse index has more than one.
    """
    names = [index.name for index in spec.indexes]
    for name in (spec.name, *names):
        if not _NAME.fullmatch(name):
            raise InvalidQuery(f"Name {shown(name)} of {shown(spec.name)} must match {_NAME.pattern}")
    if len(set(names)) < len(names):
        raise InvalidQuery(f"Collection {spec.name} declares an index twice: {', '.join(names)}")
    for index in spec.indexes:
        if not index.fields or len(set(index.fields)) < len(index.fields):
            raise InvalidQuery(f"Index {index.name} of {spec.name} needs distinct fields, not {index.fields}")
        for field in index.fields:
            if not _FIELD.fullmatch(field):
                raise InvalidQuery(f"Field {shown(field)} of index {index.name} must match {_FIELD.pattern}")
        # MongoDB leaves a document out of a sparse index only if it has none of the fields.
        if index.sparse and len(index.fields) > 1:
            raise InvalidQuery(f"Sparse index {index.name} of {spec.name} must have one field, not {index.fields}")
    if len({index.order for index in spec.indexes}) < len(spec.indexes):
        raise InvalidQuery(f"Two indexes of {spec.name} have the same fields: one of them is enough")


def encode(spec: CollectionSpec, document: Mapping[str, Any], *, version: int) -> tuple[Document, str]:
    """A checked copy of the document with that version, and its JSON text.

    Raises:
        InvalidDocument: It cannot be stored.
    """
    text = as_text(spec, {**document, "version": version})
    return cast("Document", json.loads(text)), text


def as_text(spec: CollectionSpec, document: Document) -> str:
    """The JSON text of a document that is complete.

    Raises:
        InvalidDocument: It cannot be stored.
    """
    if not is_value(document.get("_id")) or not isinstance(document["_id"], str) or not document["_id"]:
        raise InvalidDocument(
            f"Field _id of {spec.name} must be a text that is not empty, not {shown(document.get('_id'))}"
        )
    _check(spec, "", document, 0)
    for index in spec.indexes:
        for field in index.fields:
            if not is_value(document.get(field)) and not (index.sparse and field not in document):
                raise InvalidDocument(
                    f"Field {field} of {spec.name} must be a text or an integer for index {index.name}, "
                    f"not {shown(document.get(field))}"
                )
    text = _JSON.encode(document)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidDocument(f"{_named(spec, document)} has text that is not Unicode") from error
    if size > MAX_BYTES:
        raise InvalidDocument(f"{_named(spec, document)} has {size} bytes; most are {MAX_BYTES}")
    return text


def version_of(spec: CollectionSpec, document: Mapping[str, Any]) -> int:
    """The version that the document says it is.

    Raises:
        InvalidDocument: It says none.
    """
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version < _INT_MAX:
        raise InvalidDocument(f"Field version of {spec.name} must be an integer from 1 on, not {shown(version)}")
    return version


def is_value(value: object) -> bool:
    """Whether an index can hold it: a 64-bit integer, or Unicode text without NUL."""
    if isinstance(value, str):
        # Most texts are ASCII, which is known without looking at each character.
        return "\0" not in value and (value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value))
    return isinstance(value, int) and not isinstance(value, bool) and _INT_MIN <= value <= _INT_MAX


def as_value(name: str, value: object) -> Value:
    """The value, if an index can hold it.

    Raises:
        InvalidQuery: It cannot.
    """
    if not is_value(value):
        raise InvalidQuery(f"Value {shown(value)} of {name} is no text and no integer of 64 bits")
    return cast("Value", value)


def _named(spec: CollectionSpec, document: Document) -> str:
    return f"Document {shown(document['_id'])} of {spec.name}"


def _check(spec: CollectionSpec, path: str, value: object, depth: int) -> None:
    if depth > _DEEPEST:
        raise InvalidDocument(f"Field {path[:80]} of {spec.name} is nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        for name, inner in cast("dict[object, object]", value).items():
            if not isinstance(name, str):
                raise InvalidDocument(f"Field {path[:80]} of {spec.name} has a key that is no text: {shown(name)}")
            if not isinstance(inner, str):  # texts are looked at together, when they are encoded
                _check(spec, f"{path}.{name}" if path else name, inner, depth + 1)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            _check(spec, path, inner, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidDocument(f"Field {path[:80]} of {spec.name} is {value}, which JSON does not have")
    elif isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise InvalidDocument(f"Field {path[:80]} of {spec.name} does not fit into 64 bits: {shown(value)}")
    elif value is not None and not isinstance(value, str):
        raise InvalidDocument(f"Field {path[:80]} of {spec.name} is a {type(value).__name__}, which JSON does not have")
