"""OpenAPI's links: which calls can follow an answer, with what they take from it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .contract import contract_of
from .schemas import fields_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .endpoint import Endpoint

_PARAMETER = re.compile(r"\{(\w+)\}")


def links_of(source: Endpoint, names: Mapping[Endpoint, str]) -> dict[str, Any]:
    """Return the links from the answer of an endpoint that yields something.

    A call can follow if the answer yields a parameter that it needs, and if the parameters of its path are either
    yielded or in the path of the source.

    Args:
        source: The endpoint.
        names: The names of all endpoints.
    """
    declared = contract_of(source.handler)
    if declared is None or not declared.yields:
        return {}
    known = {name: f"$response.body#{pointer}" for name, pointer in declared.yields.items()}
    known |= {name: f"$request.path.{name}" for name in parameters_of(source.path) if name not in known}
    found: dict[str, Any] = {}
    for target, operation in names.items():
        needed = _needed(target)
        yielded = {name for name, _ in needed} & set(declared.yields)
        if target is source or not yielded or not set(parameters_of(target.path)) <= set(known):
            continue
        taken = [(name, place) for name, place in needed if name in known]
        link: dict[str, Any] = {"operationId": operation}
        link["parameters"] = {f"{place}.{name}": known[name] for name, place in taken if place != "body"}
        if body := {name: known[name] for name, place in taken if place == "body"}:
            link["requestBody"] = body
        found[operation] = link
    return found


def parameters_of(path: str) -> list[str]:
    """Return the names of the parameters of a path."""
    return _PARAMETER.findall(path)


def _needed(target: Endpoint) -> list[tuple[str, str]]:
    """Return the names of what a call needs, and where each belongs: path, query or body."""
    declared = contract_of(target.handler)
    needed = [(name, "path") for name in parameters_of(target.path)]
    if declared is not None:
        for place, model in (("query", declared.query), ("body", declared.body)):
            if model is not None and not isinstance(model, tuple):
                needed += [(name, place) for name, (_, required) in fields_of(model).items() if required]
    return needed
