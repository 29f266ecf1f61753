"""What a tool is to the server: a function with hints, offered under its name, with a schema that wastes no tokens."""

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
"""Makes something new and leaves everything else as it is."""

SETS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
"""Brings something into a state; doing it twice is the same as once; nothing is lost."""

REPLACES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)
"""May destroy what was there; doing it twice is the same as once."""

ACTS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False)
"""May do anything, inside its sandbox."""


def _texts(value: object) -> object:
    """Numbers and booleans as the texts that they stand for: models write `{"PORT": 8080}`."""
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
    """A tool to tool_spec.

    Attributes:
        function: Its parameters are the tool's, its docstring what the model reads.
        hints: What calling it may do.
        core: Whether it belongs to the small set of those used most.
        renamed: Parameters whose names on the wire differ from those in the function; `ref` is always `id`.
        defaults: Values of parameters that are left out, where an operator's word goes before the function's.
    """

    function: Callable[..., Awaitable[str]]
    hints: ToolAnnotations
    core: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    defaults: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def name(self) -> str:
        """The tool's name: the function's."""
        return self.function.__name__

    @property
    def description(self) -> str:
        """What the model reads."""
        return inspect.cleandoc(self.function.__doc__ or "")

    @property
    def scope(self) -> Scope:
        """What a credential must be good for."""
        return Scope.READ if self.hints.read_only_hint else Scope.RUN

    @property
    def wire_names(self) -> dict[str, str]:
        """Names on the wire by parameter, where they differ."""
        return {"ref": "id", **self.renamed}

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments from the wire under the names of the function's parameters; null is the same as left out."""
        parameters = {wire: parameter for parameter, wire in self.wire_names.items()}
        said = {parameters.get(name, name): value for name, value in given.items() if value is not None}
        return {**self.defaults, **said}

    def dress(self, schema: dict[str, Any]) -> None:
        """Give an argument schema its names on the wire, and take out what tells a model nothing. In place."""
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
