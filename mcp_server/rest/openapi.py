"""The description of the REST API in OpenAPI 3.1, made of what its endpoints and handlers declare."""

from __future__ import annotations

import inspect
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from .contract import JSON, Media, contract_of
from .links import links_of, parameters_of
from .schemas import Schemas, fields_of
from .shapes.envelope import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .contract import Contract
    from .endpoint import Endpoint, SocketEndpoint

_ALWAYS = {400, 500, 503}
_WITH_CREDENTIAL = {401, 403, 429}
_WITH_BODY = {408, 413}
_WORDS = {
    400: "The request is malformed, or a value is invalid.",
    401: "The credential is missing or invalid.",
    403: "The credential lacks a scope, or a quota is used up.",
    404: "There is no such thing, or it is not the caller's.",
    408: "The body did not arrive in time.",
    409: "The state of things does not allow it.",
    413: "The body is too large.",
    416: "The range begins after the end.",
    422: "A field of the body is missing or invalid.",
    429: "Too many requests. `Retry-After` says when to go on.",
    500: "The server failed.",
    502: "The sandbox cannot be reached.",
    503: "The server cannot do it now. Try again.",
    504: "The sandbox did not answer in time.",
    507: "A disk is full.",
    529: "The host has no room for another running sandbox.",
}
_ABOUT = (
    "Results of most routes are in VoidRun's envelope, `{status, message, data}`. Errors are `{error, details}`. "
    "What is not in the caller's organisation does not exist for it and is answered with 404."
)
_PATH_WORDS = {"id": "The sandbox's id or name.", "snapshot": "The snapshot's id, the beginning of it, or its name."}


class Undeclared(Exception):
    """Routes lack what their description is made of; the message says which, and what."""


def describe(endpoints: Sequence[Endpoint], sockets: Sequence[SocketEndpoint], *, version: str) -> dict[str, Any]:
    """Build the description.

    Args:
        endpoints: All routes.
        sockets: All WebSockets. OpenAPI has no form for them, so they are in `x-websockets`.
        version: The version of the server.

    Raises:
        Undeclared: A handler has no contract or no docstring.
    """
    if lacks := undeclared([*endpoints, *sockets]):
        raise Undeclared("; ".join(lacks))
    schemas = Schemas([Problem, *(model for one in [*endpoints, *sockets] for model in _models(_contract(one)))])
    names = _names(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for one, name in names.items():
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, name, names, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Casemate",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "x-websockets": {one.path: _socket(one, schemas) for one in sockets},
        "components": {
            "schemas": schemas.components,
            "responses": {str(status): _problem(status, schemas) for status in _WORDS},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "token": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def undeclared(routes: Sequence[Endpoint | SocketEndpoint]) -> list[str]:
    """Say for each route what its description lacks: the contract of its handler, or the handler's docstring."""
    lacks: list[str] = []
    for one in routes:
        function = inspect.unwrap(getattr(one.handler, "__func__", one.handler))
        where = f"{function.__module__}.{function.__qualname__}, which serves {_label(one)}"
        if contract_of(one.handler) is None:
            lacks.append(f"{where}, has no @contract(...)")
        if not inspect.getdoc(one.handler):
            lacks.append(f"{where}, has no docstring")
    return lacks


def _label(one: Endpoint | SocketEndpoint) -> str:
    return f"{getattr(one, 'method', 'WebSocket')} {one.path}"


def _contract(one: Endpoint | SocketEndpoint) -> Contract:
    declared = contract_of(one.handler)
    assert declared is not None
    return declared


def _models(declared: Contract) -> list[Any]:
    contents = [content for several in declared.answers.values() for content in several]
    bodies = declared.body if isinstance(declared.body, tuple) else (declared.body,)
    models = [one.part if isinstance(one, Media) else one for one in (*contents, *bodies)]
    return [model for model in models if model is not None]


def _names(endpoints: Sequence[Endpoint]) -> dict[Endpoint, str]:
    """Name each endpoint by its action, and the further ones of an action also by the last word of their path."""
    names: dict[Endpoint, str] = {}
    seen: Counter[str] = Counter()
    for one in endpoints:
        seen[one.action] += 1
        word = next(part for part in reversed(one.path.split("/")) if "{" not in part)
        names[one] = one.action if seen[one.action] == 1 else f"{one.action}.{word}"
    return names


def _operation(one: Endpoint, name: str, names: Mapping[Endpoint, str], schemas: Schemas) -> dict[str, Any]:
    declared = _contract(one)
    answers = {str(status): _answer(status, contents, schemas) for status, contents in declared.answers.items()}
    if following := links_of(one, names):
        next(iter(answers.values()))["links"] = following
    refused = {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(_refusals(one, declared))}
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": [one.action.partition(".")[0]],
        **_words(one.handler),
        "parameters": _parameters(one.path, declared),
        "responses": answers | refused,
        "security": [] if one.open else [{"key": []}, {"token": []}],
    }
    if one.scope is not None:
        operation["x-scope"] = one.scope.value
    if declared.body is not None:
        operation["requestBody"] = _body(declared.body, schemas)
    return operation


def _socket(one: SocketEndpoint, schemas: Schemas) -> dict[str, Any]:
    declared = _contract(one)
    (messages,) = (content for contents in declared.answers.values() for content in contents)
    assert isinstance(messages, Media)
    described: dict[str, Any] = {"contentMediaType": messages.type, "description": messages.description}
    if messages.part is not None:
        described["contentSchema"] = schemas.of(messages.part)
    return {
        "operationId": one.action,
        "tags": [one.action.partition(".")[0]],
        **_words(one.handler),
        "parameters": _parameters(one.path, declared),
        "security": [{"key": []}, {"token": []}],
        "x-scope": one.scope.value,
        "x-messages": described,
    }


def _words(handler: Callable[..., Any]) -> dict[str, str]:
    """Split a docstring into its first sentence and all of it."""
    text = " ".join((inspect.getdoc(handler) or "").split())
    first, _, rest = text.partition(". ")
    return {"summary": first.rstrip("."), **({"description": text} if rest else {})}


def _parameters(path: str, declared: Contract) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        | ({"description": _PATH_WORDS[name]} if name in _PATH_WORDS else {})
        for name in parameters_of(path)
    ]
    if declared.query is not None:
        found += [
            {"name": name, "in": "query", "required": required, "schema": _not_null(schema)}
            for name, (schema, required) in fields_of(declared.query).items()
        ]
    return found


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a query parameter, which is never null."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf" and value is not None}
    return options[0] | rest


def _body(body: type[Any] | tuple[Media, ...], schemas: Schemas) -> dict[str, Any]:
    if isinstance(body, tuple):
        return {"required": False, "content": {media.type: _content(media, schemas) for media in body}}
    required = any(needed for _, needed in fields_of(body).values())
    return {"required": required, "content": {JSON: {"schema": schemas.of(body)}}}


def _content(media: Media, schemas: Schemas) -> dict[str, Any]:
    if media.part is not None:
        return {"schema": schemas.of(media.part)}
    schema: dict[str, Any] = {"type": "string", "description": media.description}
    if not media.type.startswith("text/"):
        schema["format"] = "binary"
    if not media.field:
        return {"schema": schema}
    return {"schema": {"type": "object", "properties": {media.field: schema}, "required": [media.field]}}


def _answer(status: int, contents: tuple[object, ...], schemas: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(status).phrase, "content": {}}
    for content in contents:
        if isinstance(content, Media):
            described["content"][content.type] = _content(content, schemas)
        else:
            described["content"][JSON] = {"schema": schemas.of(content)}
    return described


def _refusals(one: Endpoint, declared: Contract) -> set[int]:
    found = _ALWAYS | set(declared.refusals)
    if not one.open:
        found |= _WITH_CREDENTIAL
    if parameters_of(one.path):
        found.add(404)
    if declared.body is not None:
        found |= _WITH_BODY
    return found


def _problem(status: int, schemas: Schemas) -> dict[str, Any]:
    return {"description": _WORDS[status], "content": {JSON: {"schema": schemas.of(Problem)}}}
