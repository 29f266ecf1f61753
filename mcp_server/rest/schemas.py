"""The JSON schemas of the models in requests and answers."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import core_schema

_PLACE = "#/components/schemas/{model}"


class Schemas:
    """The schemas of some models.

    Attributes:
        components: The definitions that the schemas refer to, by name.
    """

    def __init__(self, models: Iterable[Any]) -> None:
        adapters = [(model, "validation", TypeAdapter(model)) for model in dict.fromkeys(models)]
        schemas, definitions = TypeAdapter[Any].json_schemas(
            adapters,  # pyright: ignore[reportArgumentType]
            ref_template=_PLACE,
            schema_generator=_Plain,
        )
        self._schemas = {model: schema for (model, _), schema in schemas.items()}
        self.components: dict[str, Any] = definitions.get("$defs", {})

    def of(self, model: object) -> dict[str, Any]:
        """Return the schema of a model."""
        return dict(self._schemas[model])


@cache
def fields_of(model: Any) -> dict[str, tuple[dict[str, Any], bool]]:
    """Return a model's fields by their names on the wire: the schema of each, and whether it is required."""
    whole = TypeAdapter[Any](model).json_schema(ref_template=_PLACE, schema_generator=_Plain)
    required = whole.get("required", ())
    return {name: (schema, name in required) for name, schema in whole.get("properties", {}).items()}


class _Plain(GenerateJsonSchema):
    """Makes schemas without titles, which only repeat the fields' names, and with names without underscores."""

    def field_title_should_be_set(self, schema: core_schema.CoreSchema | Any) -> bool:
        return False

    def normalize_name(self, name: str) -> str:
        return re.sub(r"\W", "", name.replace("list[", "List["))
