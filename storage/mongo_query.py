"""Translation of a validated query to MongoDB's filter and sort. Each branch of a filter is one range of the index."""

from __future__ import annotations

from typing import Any, TypeAlias

from .collection import Index, Value
from .query import Query

Filter: TypeAlias = dict[str, Any]
_Bound: TypeAlias = tuple[str, Value]

_LEAST = -(2**63)


def index_key(index: Index) -> list[tuple[str, int]]:
    """Return the fields of the server's index, all ascending."""
    return [(field, 1) for field in index.order]


def index_options(index: Index) -> dict[str, Any]:
    """Return the options of the server's index, without those that are off."""
    # An index that ends with `_id` holds every document; `_present` leaves out those that lack the field.
    return {"unique": True, **({"sparse": True} if index.sparse else {})} if index.unique else {}


def index_hint(index: Index) -> str:
    """Return the index hint of a query, which makes the server refuse the query rather than scan the collection."""
    return "_id_" if index.order == ("_id",) else index.name


def order(query: Query) -> list[tuple[str, int]]:
    """Return the sort order of the result."""
    return [(field, -1 if query.descending else 1) for field in query.rest]


def matching(query: Query) -> Filter | None:
    """Build the filter; None if no document can match."""
    branches = [{**dict(query.equal), **branch} for branch in _branches(query)]
    for branch in branches:
        branch.update(_present(query, branch))
    if not branches:
        return None
    return branches[0] if len(branches) == 1 else {"$or": branches}


def within(query: Query, ids: list[str]) -> Filter:
    """Build the filter for those of the ids that still match."""
    (first, *_) = query.rest
    return {**dict(query.equal), "_id": {"$in": ids}, "$or": [{first: span} for span in _spans(None, _high(query))]}


def _branches(query: Query) -> list[Filter]:
    if not query.rest:
        return [{}]
    low = None if query.low is None else ("$gte", query.low)
    high = _high(query)
    first = query.rest[0]
    if not query.after:
        return [{first: span} if span else {} for span in _spans(low, high)]
    beyond = "$lt" if query.descending else "$gt"
    branches: list[Filter] = []
    for count, field in enumerate(query.rest):
        ties = dict(zip(query.rest[:count], query.after[:count], strict=True))
        edge = (beyond, query.after[count])
        if count == 0:
            lower, upper = (low, _lower(edge, high)) if query.descending else (_higher(edge, low), high)
        elif _outside(query):
            break
        else:
            lower, upper = (None, edge) if query.descending else (edge, None)
        branches += [{**ties, field: span} for span in _spans(lower, upper)]
    return branches


def _spans(low: _Bound | None, high: _Bound | None) -> list[Filter]:
    """Build the conditions on a field, one for each type, because MongoDB compares a bound only with its own type."""
    if low is None and high is None:
        return [{}]
    spans: list[Filter] = []
    # Integers sort before all strings.
    if low is None or isinstance(low[1], int):
        spans.append(dict([low or ("$gte", _LEAST), *([high] if high and isinstance(high[1], int) else [])]))
    if high is None or isinstance(high[1], str):
        spans.append(dict([low if low and isinstance(low[1], str) else ("$gte", ""), *([high] if high else [])]))
    return spans


def _high(query: Query) -> _Bound | None:
    return None if query.high is None else ("$lt", query.high)


def _higher(edge: _Bound, low: _Bound | None) -> _Bound:
    return low if low is not None and _rank(low[1]) > _rank(edge[1]) else edge


def _lower(edge: _Bound, high: _Bound | None) -> _Bound:
    return high if high is not None and _rank(high[1]) < _rank(edge[1]) else edge


def _outside(query: Query) -> bool:
    """Return whether the position to continue from is out of the range, so that no document ties with it."""
    at = _rank(query.after[0])
    below = query.low is not None and at < _rank(query.low)
    return below or (query.high is not None and at >= _rank(query.high))


def _rank(value: Value) -> tuple[bool, Value]:
    return isinstance(value, str), value


def _present(query: Query, branch: Filter) -> Filter:
    if not query.index.sparse:
        return {}
    return {field: {"$exists": True} for field in query.index.fields if field not in branch}
