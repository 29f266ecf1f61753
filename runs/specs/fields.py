"""The names of the fields that models know at a path, for messages about unknown ones."""

from __future__ import annotations

from types import UnionType
from typing import Any, TypeGuard, Union, get_args, get_origin

from .faults import Path
from .model import SpecModel


def known_fields(model: type[SpecModel], path: Path) -> list[str]:
    """Return the fields of the models at a path, by the names that a document uses."""
    kinds: list[Any] = [model]
    for part in path:
        forms = [kind for kind in kinds if _is_model(kind) and kind.form and kind.form == part]
        kinds = forms or [found for kind in kinds for found in _inside(kind, part)]
    names = [info.alias or name for kind in kinds if _is_model(kind) for name, info in kind.model_fields.items()]
    return list(dict.fromkeys(names))


def _inside(kind: Any, part: str | int) -> list[Any]:
    if _is_model(kind):
        return [
            found
            for name, info in kind.model_fields.items()
            if part in {name, info.alias}
            for found in _alternatives(info.annotation)
        ]
    arguments = get_args(kind)
    if get_origin(kind) is list and isinstance(part, int):
        return _alternatives(arguments[0])
    return []


def _alternatives(annotation: Any) -> list[Any]:
    """Return the types that an annotation stands for."""
    if hasattr(annotation, "__metadata__"):
        return _alternatives(annotation.__origin__)
    if get_origin(annotation) in {Union, UnionType}:
        return [found for one in get_args(annotation) for found in _alternatives(one)]
    return [annotation]


def _is_model(kind: Any) -> TypeGuard[type[SpecModel]]:
    return isinstance(kind, type) and issubclass(kind, SpecModel)
