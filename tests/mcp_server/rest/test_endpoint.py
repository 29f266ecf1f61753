"""What happens around every REST handler: scopes, methods, bodies, errors."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from auth.errors import EmailTaken, InvalidAccount, KeyMissing, TooManyTickets
from auth.principal import Principal
from auth.roles import Scope as Power
from mcp_server.rest.body import WireModel, parse_body, parse_query
from mcp_server.rest.endpoint import NOBODY, Endpoint, routes
from mcp_server.rest.envelope import success
from mcp_server.rest.shapes.envelope import PageMeta
from storage.errors import StoreError, StoreFull, StoreUnavailable
from vmm.errors import GuestDiskFull, HostExhausted, InvalidInput, LinkTimeout, NotFound, SandboxLost

pytestmark = pytest.mark.anyio

SECRET = "correct horse battery staple"
FAILURES: dict[str, Exception] = {
    "invalid": InvalidInput("cpu: 9 is out of range", hint="Use 1 to 8"),
    "missing": NotFound("There is no sandbox 'x'"),
    "lost": SandboxLost("Sandbox x is lost"),
    "crowded": HostExhausted("The host is full"),
    "slow": LinkTimeout("The guest did not answer"),
    "full": GuestDiskFull("No space left"),
    "taken": EmailTaken("email is taken"),
    "no key": KeyMissing("no such key"),
    "account": InvalidAccount("name is empty"),
    "tickets": TooManyTickets("you have 100 unused tickets"),
    "store": StoreUnavailable("The store is away"),
    "store full": StoreFull("The store is full"),
    "store broken": StoreError("The store is broken"),
    "grouped": ExceptionGroup("tasks", [NotFound("There is no sandbox 'y'")]),
    "late": TimeoutError(),
}


class Order(WireModel):
    """Something that a client may send."""

    how_many: int
    text: str = ""
    env: dict[str, str] = Field(default_factory=dict[str, str])


async def take(request: Request, who: Principal) -> Response:
    order = await parse_body(request, Order, most=1000)
    return JSONResponse({"many": order.how_many, "text": order.text, "user": who.user_id})


async def look(request: Request, who: Principal) -> Response:
    order = parse_query(request, Order)
    return success(
        "Found", {"many": order.how_many, "text": order.text}, meta=PageMeta(page=1, limit=20, total=1, totalPages=1)
    )


async def fail(request: Request, who: Principal) -> Response:
    raise FAILURES[request.path_params["id"]]


async def greet(request: Request, who: Principal) -> Response:
    return JSONResponse({"known": who is not NOBODY})


ENDPOINTS = [
    Endpoint(method="GET", path="/orders", handler=look, scope=Power.READ, action="order.look"),
    Endpoint(method="POST", path="/orders", handler=take, scope=Power.RUN, action="order.take"),
    Endpoint(method="GET", path="/sandboxes/{id}", handler=fail, scope=None, action="order.fail"),
    Endpoint(method="GET", path="/hello", handler=greet, scope=None, action="hello", open=True),
]
READER = Principal(org_id="a" * 24, user_id="reader", scopes=frozenset({Power.READ}))
RUNNER = Principal(org_id="a" * 24, user_id="runner", scopes=frozenset({Power.RUN}))


@asynccontextmanager
async def client(who: Principal | None, state: dict[str, Any] | None = None) -> AsyncGenerator[httpx.AsyncClient]:
    """The endpoints as somebody meets them; `state` receives what a call leaves for the audit."""
    app = Starlette(routes=list(routes(ENDPOINTS)))

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        if who is not None:
            scope.setdefault("state", {})["principal"] = who
        await app(scope, receive, send)
        if state is not None:
            state.update(scope["state"])

    transport = httpx.ASGITransport(known)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def test_a_credential_without_the_scope_is_told_what_it_lacks_and_has() -> None:
    state: dict[str, Any] = {}
    async with client(READER, state) as http:
        answer = await http.post("/orders", json={"howMany": 1})
    assert answer.status_code == 403
    assert answer.json() == {"error": "This needs the scope run; the credential has read"}
    assert (state["action"], state["refusal"]) == ("order.take", answer.json()["error"])


async def test_a_scope_includes_the_lesser_ones() -> None:
    async with client(RUNNER) as http:
        assert (await http.get("/orders?howMany=2")).status_code == 200
        assert (await http.post("/orders", json={"howMany": 1})).json()["user"] == "runner"


async def test_only_an_open_endpoint_serves_a_caller_without_a_credential() -> None:
    async with client(None) as http:
        assert (await http.get("/hello")).json() == {"known": False}
        refused = await http.get("/orders?howMany=2")
        assert refused.status_code == 401
        assert "X-API-Key" in refused.json()["error"]
    async with client(READER) as http:
        assert (await http.get("/hello")).json() == {"known": True}


async def test_a_method_that_the_path_has_not_is_answered_with_those_that_it_has() -> None:
    async with client(RUNNER) as http:
        for method, status in (("DELETE", 405), ("BREW", 405), ("OPTIONS", 204)):
            answer = await http.request(method, "/orders")
            assert answer.status_code == status
            assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
        assert (await http.put("/hello")).headers["allow"] == "GET, HEAD, OPTIONS"
        assert (await http.head("/orders?howMany=1")).status_code == 200


async def test_an_answer_comes_in_the_envelope() -> None:
    async with client(RUNNER) as http:
        assert (await http.get("/orders?howMany=2&text=a%20b")).json() == {
            "status": "success",
            "message": "Found",
            "data": {"many": 2, "text": "a b"},
            "meta": {"page": 1, "limit": 20, "total": 1, "totalPages": 1},
        }


@pytest.mark.parametrize(
    ("failure", "status", "error"),
    [
        ("invalid", 400, "cpu: 9 is out of range"),
        ("missing", 404, "There is no sandbox 'x'"),
        ("lost", 409, "Sandbox x is lost"),
        ("crowded", 529, "The host is full"),
        ("slow", 504, "The guest did not answer"),
        ("full", 507, "No space left"),
        ("taken", 409, "email is taken"),
        ("no key", 404, "no such key"),
        ("tickets", 429, "you have 100 unused tickets"),
        ("account", 400, "name is empty"),
        ("store", 503, "The server's store failed"),
        ("store full", 507, "The server's store failed"),
        ("store broken", 500, "The server's store failed"),
        ("grouped", 404, "There is no sandbox 'y'"),
        ("late", 504, "The server timed out"),
    ],
)
async def test_a_failure_is_answered_with_its_status(failure: str, status: int, error: str) -> None:
    state: dict[str, Any] = {}
    async with client(READER, state) as http:
        answer = await http.get(f"/sandboxes/{failure}")
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert (state["sandbox"], state["refusal"]) == (failure, error)
    assert ("retry-after" in answer.headers) == (failure in {"crowded", "store"})


async def test_what_nobody_foresaw_is_left_to_the_layer_that_logs_it() -> None:
    async with client(READER) as http:
        with pytest.raises(KeyError):
            await http.get("/sandboxes/unforeseen")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "howMany is required"),
        (b"{}", 400, "howMany is required"),
        (b'{"howMany": null}', 400, "howMany is required"),
        (b'{"how_many": 1}', 400, "howMany is required"),
        (b'{"howMany": "1"}', 400, "howMany='1': Input should be a valid integer"),
        (b'{"howMany": true}', 400, "howMany=True: Input should be a valid integer"),
        (b'{"howMany": 1.5}', 400, "howMany=1.5: Input should be a valid integer"),
        (b'{"howMany": NaN}', 400, "not valid JSON"),
        (b'{"howMany": 1, "text": 5}', 400, "text=5: Input should be a valid string"),
        (b'{"howMany": 1, "text": "\xff"}', 400, "not valid JSON"),
        (b'{"howMany": 1, "text": "\\ud800"}', 400, "not valid JSON"),
        (b'{"howMany": "' + b"x" * 500 + b'"}', 400, "…: Input should be a valid integer"),
        (b'{"howMany": [' + b"9" * 900 + b"]}", 400, "Input should be a valid integer"),
        (b"[1]", 400, "The body is [1]"),
        (b"1" * 900, 400, "The body is a number of"),
        (b"null", 400, "The body is None"),
        (b"[" * 900, 400, "not valid JSON"),
        (b"x" * 1001, 413, "larger than the limit of 1000 bytes"),
    ],
)
async def test_a_bad_body_is_refused_with_field_value_and_expectation(body: bytes, status: int, says: str) -> None:
    async with client(RUNNER) as http:
        answer = await http.post("/orders", content=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert len(answer.json()["error"]) < 300


async def test_null_and_unknown_fields_are_the_same_as_left_out() -> None:
    async with client(RUNNER) as http:
        answer = await http.post("/orders", json={"howMany": 1, "text": None, "env": None, "more": [1]})
    assert answer.json() == {"many": 1, "text": "", "user": "runner"}


async def test_what_may_be_secret_is_not_repeated() -> None:
    async with client(RUNNER) as http:
        for env in (SECRET, {"A": [SECRET]}):
            answer = await http.post("/orders", json={"howMany": 1, "env": env})
            assert answer.status_code == 400
            assert answer.json()["error"].startswith("env")
            assert SECRET not in answer.text


@pytest.mark.parametrize("query", ["howMany=%ff", "howMany=x", "howMany=1&" + "a=1&" * 200, "", "howMany="])
async def test_a_bad_query_is_refused(query: str) -> None:
    async with client(RUNNER) as http:
        answer = await http.get(f"/orders?{query}")
    assert answer.status_code == 400
    assert json.loads(answer.text)["error"]
