"""Declarations of tools: a function, hints about its effects, and a schema that wastes no tokens."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

from mcp.types import ToolAnnotations
from pydantic import BeforeValidator, Field

from auth.roles import Scope

READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
"""Changes nothing."""

ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
"""Creates something and leaves everything else as it is."""

SETS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
"""Sets something to a state; doing it twice is the same as once; nothing is lost."""

REPLACES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)
"""May destroy what was there; doing it twice is the same as once."""

ACTS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True)
"""May do anything inside its sandbox, and wherever that may connect to."""


def _texts(value: object) -> object:
    """Convert numbers and booleans to text, because models write `{"PORT": 8080}`."""
    if not isinstance(value, Mapping):
        return value
    pairs = cast("Mapping[object, object]", value)
    return {key: _text(item) for key, item in pairs.items()}


def _text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


SandboxRef = Annotated[str, Field(description="Sandbox id or name")]
Pairs = Annotated[dict[str, str], BeforeValidator(_texts)]
NO_PAIRS: Pairs = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """The declaration of a tool.

    Attributes:
        function: Defines the tool's parameters, and the description in its docstring.
        hints: What a call may change.
        core: Whether the tool belongs to the small toolset `core`.
        renamed: Names on the wire that differ from the function's parameters; `ref` is always `id`.
        defaults: Defaults that the operator's settings override.
    """

    function: Callable[..., Awaitable[object]]
    hints: ToolAnnotations
    core: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    defaults: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def name(self) -> str:
        """The tool's name, which is the function's."""
        return self.function.__name__

    @property
    def description(self) -> str:
        """The description that the model reads."""
        return inspect.cleandoc(self.function.__doc__ or "")

    @property
    def scope(self) -> Scope:
        """The scope that a credential needs."""
        return Scope.READ if self.hints.read_only_hint else Scope.RUN

    @property
    def wire_names(self) -> dict[str, str]:
        """Names on the wire by parameter, where the two differ."""
        return {"ref": "id", **self.renamed}

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Rename arguments from the wire to the function's parameters; null counts as left out."""
        parameters = {wire: parameter for parameter, wire in self.wire_names.items()}
        known = {parameters.get(name, name): value for name, value in given.items() if value is not None}
        return {**self.defaults, **known}

    def simplify(self, schema: dict[str, Any]) -> None:
        """Rename a schema's arguments to their names on the wire, and remove what tells a model nothing. In place."""
        schema.pop("title", None)
        for name, parameter in schema["properties"].items():
            parameter.pop("title", None)
            if name in self.defaults:
                parameter["default"] = self.defaults[name]
            if parameter.get("default", 1) in ("", None, {}, []):
                del parameter["default"]
        names = self.wire_names
        schema["properties"] = {names.get(name, name): value for name, value in schema["properties"].items()}
        if "required" in schema:
            schema["required"] = [names.get(name, name) for name in schema["required"]]
