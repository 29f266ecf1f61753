"""The API's description: complete, of the handlers' own models, and open to everybody."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable
from html.parser import HTMLParser
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from auth.principal import Principal
from auth.roles import Scope
from mcp_server.app import Services
from mcp_server.rest.api import Api
from mcp_server.rest.contract import contract, contract_of
from mcp_server.rest.docs_page import docs_page
from mcp_server.rest.endpoint import Endpoint, Handler
from mcp_server.rest.openapi import Undeclared, describe, undeclared
from mcp_server.rest.shapes.envelope import Done
from tests.mcp_server.edge import Edge

pytestmark = pytest.mark.anyio

OTHERS = {"/health", "/ready", "/metrics"} | {
    f"/api/mcp{toolset}{slash}" for toolset in ("", "/core", "/readonly") for slash in ("", "/")
}
"""Paths that are no part of the REST API."""

READS_MODEL = {"parse_body": "body", "parse_query": "query", "checked": "body"}


@pytest.fixture
async def api(services: Services) -> Api:
    """The real server's routes."""
    return services.api(services.ports())


@pytest.fixture
async def description(api: Api) -> dict[str, Any]:
    """Their description."""
    return describe([*api.closed, *api.open], api.sockets, version="1.2.3")


async def test_every_route_declares_what_it_takes_and_answers(api: Api) -> None:
    assert undeclared([*api.closed, *api.open, *api.sockets]) == []


async def test_a_handler_declares_the_models_that_it_reads(api: Api) -> None:
    for one in (*api.closed, *api.open, *api.sockets):
        declared = contract_of(one.handler)
        assert declared is not None
        for place, name in _models_read(one.handler):
            model = getattr(declared, place)
            assert getattr(model, "__name__", None) == name, f"{one.path}: the {place} is read as {name}, not {model}"


async def test_messages_of_a_socket_have_a_schema_where_they_are_json(description: dict[str, Any]) -> None:
    sockets = description["x-websockets"]
    events = sockets["/api/sandboxes/{id}/files/watch/{watch}/stream"]["x-messages"]
    assert events["contentMediaType"] == "application/json"
    assert events["contentSchema"] == {"$ref": "#/components/schemas/FileEventObject"}
    assert {"type", "path", "oldPath"} <= set(description["components"]["schemas"]["FileEventObject"]["properties"])
    assert "contentSchema" not in sockets["/api/sandboxes/{id}/pty"]["x-messages"]


async def test_every_route_of_the_server_is_described(services: Services, description: dict[str, Any]) -> None:
    served = services.web().routes
    sockets = {route.path for route in served if isinstance(route, WebSocketRoute)}
    assert sockets == set(description["x-websockets"])
    # A socket's path has a route, too, which tells a plain GET to upgrade.
    paths = {route.path for route in served if isinstance(route, Route)} - OTHERS
    assert paths - sockets == set(description["paths"]) - sockets


def test_a_route_without_a_contract_is_named() -> None:
    async def bare(request: Request, who: Principal) -> Response:
        return Response()

    @contract(Done)
    async def silent(request: Request, who: Principal) -> Response:
        return Response()

    endpoints = [
        Endpoint(method="GET", path=f"/api/{handler.__name__}", handler=handler, scope=Scope.READ, action="none")
        for handler in (bare, silent)
    ]
    with pytest.raises(Undeclared) as raised:
        describe(endpoints, [], version="1")
    assert "GET /api/bare, has no @contract(...)" in str(raised.value)
    assert "GET /api/silent, has no docstring" in str(raised.value)
    assert "test_a_route_without_a_contract_is_named.<locals>.bare" in str(raised.value)


async def test_what_the_description_refers_to_is_there_and_each_name_once(description: dict[str, Any]) -> None:
    operations = [one for operations in description["paths"].values() for one in operations.values()]
    operations += description["x-websockets"].values()
    names = [one["operationId"] for one in operations]
    assert len(names) == len(set(names))
    for name, value in _members(description):
        if name == "$ref":
            found: Any = description
            for part in value.removeprefix("#/").split("/"):
                found = found[part]
        if name == "links":
            assert {link["operationId"] for link in value.values()} <= set(names)
    assert all("__" not in name for name in description["components"]["schemas"])


async def test_an_operation_says_who_may_call_it_and_what_it_answers(description: dict[str, Any]) -> None:
    create = description["paths"]["/api/sandboxes"]["post"]
    assert create["x-scope"] == "run"
    assert create["security"] == [{"key": []}, {"token": []}]
    assert set(create["responses"]) >= {"201", "400", "401", "403", "409", "413", "429", "503", "529"}
    body = description["components"]["schemas"]["CreateRequest"]
    assert body["required"] == ["name"]
    assert {"type": "null"} in body["properties"]["envVars"]["anyOf"]
    assert description["paths"]["/api/version"]["get"]["security"] == []
    page, limit, labels = description["paths"]["/api/sandboxes"]["get"]["parameters"]
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
    assert (page["name"], labels["required"]) == ("page", False)
    socket = description["x-websockets"]["/api/sandboxes/{id}/pty"]
    assert {one["name"] for one in socket["parameters"]} >= {"id", "cols", "rows", "binary"}


async def test_the_description_and_its_page_need_no_credential(edge: Edge) -> None:
    async with edge.http() as http:
        described = await http.get("/api/openapi.json")
        page = await http.get("/api/docs")
    assert described.json()["openapi"] == "3.1.0"
    assert described.headers["content-type"] == "application/json"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "/api/sandboxes/{id}/exec" in page.text


async def test_the_page_runs_no_script_and_loads_nothing(edge: Edge) -> None:
    async with edge.http() as http:
        page = await http.get("/api/docs")
        described = (await http.get("/api/openapi.json")).json()
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    seen = Seen()
    seen.feed(page.text)
    assert not seen.tags & {"script", "img", "link", "iframe", "object"}
    assert {link.removeprefix("#") for link in seen.links if link.startswith("#")} <= seen.ids
    assert {link for link in seen.links if not link.startswith("#")} == {"openapi.json"}
    operations = [one for operations in described["paths"].values() for one in operations.values()]
    assert {one["operationId"] for one in operations} <= seen.ids


def test_the_page_shows_prose_as_text() -> None:
    @contract(Done)
    async def marked(request: Request, who: Principal) -> Response:
        """Show <b>`<i>`</b>."""
        return Response()

    one = Endpoint(method="GET", path="/api/marked", handler=marked, scope=None, action="mark")
    page = docs_page(describe([one], [], version="1"))
    assert "&lt;b&gt;<code>&lt;i&gt;</code>&lt;/b&gt;" in page


class Seen(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.links.add(values.get("href") or "#schemas")
        self.ids.add(values.get("id") or "")


def _models_read(handler: Handler | Any) -> list[tuple[str, str]]:
    """Find what a handler's code reads bodies and queries with: the place, and the model's name."""
    function = inspect.unwrap(getattr(handler, "__func__", handler))
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found: list[tuple[str, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in READS_MODEL:
            names = [argument.id for argument in node.args if isinstance(argument, ast.Name)]
            models = [name for name in names if re.fullmatch(r"[A-Z]\w+", name)]
            found += [(READS_MODEL[node.func.id], name) for name in models]
    return found


def _members(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, member in cast("dict[str, Any]", value).items():
            yield name, member
            yield from _members(member)
    elif isinstance(value, list):
        for member in cast("list[Any]", value):
            yield from _members(member)
