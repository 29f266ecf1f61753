"""Compares every answer of the routes with the API's description, beside whatever a test is about."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import jsonschema_rs
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_server.rest.endpoint import Endpoint, SocketEndpoint, routes
from mcp_server.rest.openapi import describe

_JSON = "application/json"
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
_NOT_ALLOWED = 405


class Described:
    """An application whose answers must be in the description of its endpoints."""

    def __init__(self, app: ASGIApp, endpoints: Sequence[Endpoint], sockets: Sequence[SocketEndpoint] = ()) -> None:
        self._faults: list[str] = []
        self._app = app
        self._routes = routes(endpoints)
        self._description = closed(describe(endpoints, sockets, version="test"))

    def check(self) -> None:
        """Fail if an answer had a status, a media type or JSON that is not described."""
        assert not self._faults, "\n".join(self._faults)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self._operation(scope) if scope["type"] == "http" else None
        if operation is None:
            await self._app(scope, receive, send)
            return
        head: Message = {}
        body = bytearray()

        async def watch(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                head = message
            elif _media(head) == _JSON:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    self._compare(scope, operation, head, bytes(body))
            elif not message.get("more_body", False):
                self._compare(scope, operation, head, b"")
            await send(message)

        await self._app(scope, receive, watch)

    def _operation(self, scope: Scope) -> dict[str, Any] | None:
        if scope["method"] not in _METHODS:
            return None
        path = next((one.path for one in self._routes if _matches(one, scope)), "")
        method = "get" if scope["method"] == "HEAD" else scope["method"].lower()
        return self._description["paths"].get(path, {}).get(method)

    def _compare(self, scope: Scope, operation: dict[str, Any], head: Message, body: bytes) -> None:
        status, media = head["status"], _media(head)
        where = f"{scope['method']} {scope['path'][:100]} ({operation['operationId']}), {status}"
        if status == _NOT_ALLOWED:
            return
        answer = operation["responses"].get(str(status))
        if answer is None:
            self._faults.append(f"{where}: the status is not described: {body[:200]!r}")
            return
        if "$ref" in answer:
            answer = self._description["components"]["responses"][str(status)]
        content = answer["content"].get(media)
        if not media and not answer["content"] and not body:
            return
        if content is None:
            self._faults.append(f"{where}: {media} is not described")
        elif media == _JSON and scope["method"] != "HEAD":
            schema = {**content["schema"], "components": self._description["components"]}
            checker = jsonschema_rs.validator_for(schema, validate_formats=True)
            self._faults += [f"{where}: {error}" for error in checker.iter_errors(json.loads(body))]


def closed(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description whose objects have no fields but those that it names."""
    made = copy.deepcopy(description)
    for schema in made["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return made


def _matches(route: Route, scope: Scope) -> bool:
    return route.matches(scope)[0] is not Match.NONE


def _media(head: Message) -> str:
    headers = {name.lower(): value for name, value in head.get("headers", ())}
    return headers.get(b"content-type", b"").decode().partition(";")[0]
