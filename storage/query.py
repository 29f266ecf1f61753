"""A query, checked against the index that it names: pure, and the same for every adapter."""

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
    """What an adapter is asked for; nothing in it needs another check.

    Attributes:
        equal: Values of the index's first fields.
        rest: The fields that order the result; the last one leaves no ties.
        after: Values of `rest` at the end of the page before; empty at the start.
        low: Least value of the first field of `rest`.
        high: First value of that field which is too high.
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
    """Check a query.

    Raises:
        InvalidQuery: The index is not declared, or the values do not fit it.
    """
    equal = equal or {}
    where = f"index {index.name} of {spec.name}"
    if index not in spec.indexes:
        raise InvalidQuery(f"There is no {where} with fields {index.fields}: declare it")
    prefix, rest = index.order[: len(equal)], index.order[len(equal) :]
    if set(prefix) != set(equal):
        raise InvalidQuery(f"Fields {sorted(equal)} are not the first ones of {where}, which has {index.order}")
    check_limit(limit)
    if not rest and not (after is None and low is None and high is None):
        raise InvalidQuery(f"All fields of {where} are given: nothing is left for a range or a position")
    missing = [field for field in rest if after is not None and field not in after]
    if missing:
        raise InvalidQuery(f"The position to go on from lacks {missing}, which {where} orders by")
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
    """Refuse a page of no documents or of too many.

    Raises:
        InvalidQuery: The limit is not from 1 to 10,000.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidQuery(f"Limit {shown(limit)} is not from 1 to {MAX_LIMIT}")
