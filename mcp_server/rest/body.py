"""JSON bodies and query parameters: read with a size limit, and validated by models with VoidRun's field names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast
from urllib.parse import parse_qsl

import anyio
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from storage.shown import shown
from vmm.errors import InvalidInput

from .errors import invalid

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema
    from starlette.requests import HTTPConnection, Request

MAX_JSON = 2 * 1024 * 1024
"""Bytes of a JSON body."""

_NULL = {"type": "null"}
_READ_S = 30
_MAX_PARAMETERS = 100


class WireModel(BaseModel):
    """A request: snake_case here, camelCase on the wire; null counts as left out, and unknown fields are ignored.

    A model for PATCH refuses unknown fields with `model_config = ConfigDict(extra="forbid")`.

    Attributes:
        redacted: Fields, by their name on the wire, whose values never appear in an error.
        refusal: What an error says first where VoidRun has a text of its own; what is wrong is then in the details.
        field_refusals: The same for single fields, by their name on the wire.
    """

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True, allow_inf_nan=False)

    redacted: ClassVar[frozenset[str]] = frozenset({"env", "envVars", "content", "stdin", "input"})
    refusal: ClassVar[str] = ""
    field_refusals: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> dict[str, Any]:
        """Describe optional fields as fields that may be null, because null counts as left out."""
        schema = handler(core_schema)
        fields = handler.resolve_ref_schema(schema)
        for name, field in fields.get("properties", {}).items():
            if name not in fields.get("required", ()) and _NULL not in field.get("anyOf", ()):
                about = {key: field.pop(key) for key in ("default", "description") if key in field}
                fields["properties"][name] = {"anyOf": [field, _NULL], **about}
        return schema

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in cast("dict[str, Any]", given).items() if value is not None}


M = TypeVar("M", bound=WireModel)


async def parse_body(request: Request, model: type[M], *, most: int = MAX_JSON) -> M:
    """Parse a request's body as a JSON object; no body counts as an empty object.

    Args:
        request: The request.
        model: Validates the object, in strict mode: `"1"` is not a number.
        most: The largest size, in bytes.

    Raises:
        InvalidInput: The body is not a JSON object, or a field is invalid; the message names field, value and rule.
        HTTPException: The body is too large (413), or did not arrive in time (408).
    """
    body = await read_body(request, most=most)
    try:
        given = parse_object(body)
    except InvalidInput as error:
        raise _worded(model.refusal, error) from error
    return checked(model, given)


def parse_query(request: HTTPConnection, model: type[M]) -> M:
    """Parse the query of a request or socket. Empty parameters are ignored; of a repeated one the last counts.

    Raises:
        InvalidInput: There are too many parameters, or one is invalid or not UTF-8.
    """
    try:
        pairs = parse_qsl(
            request.scope["query_string"].decode("ascii"), errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except ValueError:
        raise InvalidInput(
            "The query string is invalid",
            hint=f"Write at most {_MAX_PARAMETERS} parameters as name=value, percent-encoded UTF-8",
        ) from None
    return checked(model, dict(pairs), strict=False)


async def read_body(request: Request, *, most: int = MAX_JSON) -> bytes:
    """Read a request's whole body.

    Raises:
        HTTPException: The body is larger than `most` bytes (413), or did not arrive in time (408).
    """
    body = bytearray()
    try:
        with anyio.fail_after(_READ_S):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise HTTPException(413, f"The body is larger than the limit of {most} bytes")
    except TimeoutError:
        raise HTTPException(408, f"The body did not arrive within {_READ_S} s") from None
    return bytes(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; an empty body counts as an empty object.

    Raises:
        InvalidInput: The body is not UTF-8, not JSON, or not an object.
    """
    if not body.strip():
        return {}
    try:
        value: object = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidInput(f"The body is not valid JSON: {error}", hint="Send a JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"The body is {shown(value)}, not a JSON object", hint="Send a JSON object")
    return cast("dict[str, Any]", value)


def checked(model: type[M], given: Mapping[str, Any], *, strict: bool = True) -> M:
    """Validate values by a model; in strict mode `"1"` is not a number.

    Raises:
        InvalidInput: A field is invalid; the message names field, value and rule.
    """
    try:
        return model.model_validate(given, strict=strict)
    except ValidationError as error:
        fields = [str(details["loc"][0]) for details in error.errors() if details["loc"]]
        wording = next((model.field_refusals[name] for name in fields if name in model.field_refusals), model.refusal)
        raise _worded(wording, invalid(error, redacted=model.redacted)) from None


def _worded(wording: str, error: InvalidInput) -> InvalidInput:
    return InvalidInput(wording, hint=str(error)) if wording else error
