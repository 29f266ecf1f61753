"""Validation of a query against the index that it names, the same for every adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .collection import CollectionSpec, Index, Value
from .documents import as_value
from .errors import InvalidQuery
from .shown import shown

MAX_LIMIT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A validated query.

    Attributes:
        equal: Values of the index's first fields.
        rest: The fields that order the result; the last one breaks ties.
        after: Values of `rest` at the end of the previous page; empty for the first page.
        low: Lower bound, inclusive, of the first field of `rest`.
        high: Upper bound, exclusive, of that field.
    """

    index: Index
    equal: tuple[tuple[str, Value], ...]
    rest: tuple[str, ...]
    after: tuple[Value, ...] = ()
    low: Value | None = None
    high: Value | None = None
    descending: bool = False
    limit: int = MAX_LIMIT


def plan(
    spec: CollectionSpec,
    index: Index,
    equal: Mapping[str, Value] | None,
    *,
    after: Mapping[str, Any] | None = None,
    low: Value | None = None,
    high: Value | None = None,
    descending: bool = False,
    limit: int = MAX_LIMIT,
) -> Query:
    """Validate a query.

    Raises:
        InvalidQuery: The index is not declared, or the values do not fit it.
    """
    equal = equal or {}
    where = f"index {index.name} of {spec.name}"
    if index not in spec.indexes:
        raise InvalidQuery(f"The {where} with fields {index.fields} is not declared: add it to the collection's spec")
    prefix, rest = index.order[: len(equal)], index.order[len(equal) :]
    if set(prefix) != set(equal):
        raise InvalidQuery(f"Fields must be the first ones of {where}, {index.order}, got {sorted(equal)}")
    check_limit(limit)
    if not rest and not (after is None and low is None and high is None):
        raise InvalidQuery(f"All fields of {where} are given: a range or a position needs a field without a value")
    missing = [field for field in rest if after is not None and field not in after]
    if missing:
        raise InvalidQuery(f"The position to continue from must have {missing}, which {where} orders by")
    return Query(
        index=index,
        equal=tuple((field, as_value(field, equal[field])) for field in prefix),
        rest=rest,
        after=tuple(as_value(field, after[field]) for field in rest) if after is not None else (),
        low=None if low is None else as_value(rest[0], low),
        high=None if high is None else as_value(rest[0], high),
        descending=descending,
        limit=limit,
    )


def check_limit(limit: int) -> None:
    """Validate the size of a page.

    Raises:
        InvalidQuery: The limit is not from 1 to 10,000.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidQuery(f"Limit must be from 1 to {MAX_LIMIT}, got {shown(limit)}")
