"""Checks a parsed document against a model, and puts each refusal where it belongs in the text."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from .faults import MOST_FAULTS, Fault, Path, dotted
from .fields import known_fields
from .model import SpecModel
from .names import unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

    from .node import Node
    from .rules import Problem

M = TypeVar("M", bound=SpecModel)

_SHOWN = 80
_MUST = {
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping, with names and values",
    "model_type": "must be a mapping, with names and values",
    "model_attributes_type": "must be a mapping, with names and values",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have at most {max_length} characters",
    "literal_error": "must be {expected}",
    "too_long": "must have at most {max_length} entries",
}
_UNTYPED = {"union_tag_invalid", "union_tag_not_found"}
_EMPTY = {"string_too_short", "too_short"}


def checked(root: Node, model: type[M]) -> tuple[M | None, list[Fault]]:
    """Return a document as a model, or everything that is wrong with it."""
    try:
        return model.model_validate(root.plain()), []
    except ValidationError as error:
        details = error.errors(include_url=False)[:MOST_FAULTS]
        return None, [_fault(root, model, detail) for detail in details]


def placed(root: Node, problems: Iterable[Problem]) -> list[Fault]:
    """Return problems as faults."""
    return [_at(root, one.path, one.message, name=one.name) for one in islice(problems, MOST_FAULTS)]


def _fault(root: Node, model: type[SpecModel], detail: ErrorDetails) -> Fault:
    path = _real(root, detail["loc"])
    kind, loc = detail["type"], detail["loc"]
    if kind == "extra_forbidden":
        return _at(root, path, unknown("field", str(loc[-1]), known_fields(model, loc[:-1])), name=True)
    if kind == "missing":
        return _at(root, _real(root, loc[:-1]), f"needs the field {loc[-1]}")
    if kind in _UNTYPED:
        return _at(root, (*path, "type"), "must be box or fan_out: the field type says what a stage is")
    return _at(root, path, _message(kind, detail))


def _message(kind: str, detail: ErrorDetails) -> str:
    value, context = detail["input"], detail.get("ctx", {})
    if kind in _EMPTY:
        return "must not be empty"
    if kind == "value_error":
        return str(context["error"])
    if kind in _MUST:
        return f"{_MUST[kind].format(**context)}, got {_shown(value)}{_way_out(kind, value)}"
    return detail["msg"]


def _real(root: Node, path: Path) -> Path:
    """Drop from a validator's path what is not in the document: names of alternatives, and a field that is missing."""
    node = root
    real: list[str | int] = []
    for part in path:
        match node.value:
            case dict() if isinstance(part, str) and part in node.value:
                node = node.value[part]
            case list() if isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            case _:
                continue
        real.append(part)
    return tuple(real)


def _at(root: Node, path: Path, message: str, *, name: bool = False) -> Fault:
    line, column = root.place_of(path, name=name)
    return Fault(line=line, column=column, path=dotted(path), message=message)


def _shown(value: Any) -> str:
    match value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case bool():
            return str(value).lower()
        case None:
            return "nothing"
        case _:
            text = repr(value)
            return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _way_out(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, int | float):
        return f': write it in quotes, "{_shown(value)}"'
    return ""
