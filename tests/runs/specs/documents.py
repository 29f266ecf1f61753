"""Documents that hypothesis makes up."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import strategies as st

_TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Co", "Cn"]), max_size=8)
_SCALARS = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(-1e9, 1e9) | _TEXTS


def documents() -> st.SearchStrategy[dict[str, Any]]:
    """Any mapping of lists, mappings and scalars."""
    values = st.recursive(
        _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4)
    )
    return st.dictionaries(_TEXTS, values, min_size=1, max_size=5)


def without_nulls(value: object) -> object:
    """A document as it is read: fields that are null are left out."""
    match value:
        case list():
            return [without_nulls(item) for item in cast("list[object]", value)]
        case dict():
            fields = cast("dict[str, object]", value)
            return {name: without_nulls(item) for name, item in fields.items() if item is not None}
        case _:
            return value
