"""The gate in front of a real application, over the ASGI transport of a real client."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
import structlog.testing
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware, get_access_token
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from auth.keys import KeyStore, NewKey
from auth.middleware import ApiKeyAuth
from storage.errors import StoreUnavailable
from tests.auth.spies import SpyCollection

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from storage.collection import Collection
    from tests.auth.clocks import Clocks

pytestmark = pytest.mark.anyio

UNKNOWN = "cm_" + "A" * 43
NO_KEY = "authentication required (X-API-Key or Bearer token)"
BAD_KEY = "invalid or inactive API key"
BOTH = "provide either X-API-Key or Bearer token, not both"


async def who(request: Request) -> JSONResponse:
    """What the application learns about its caller."""
    principal, user = request.state.principal, request.scope["user"]
    token = get_access_token()
    assert isinstance(user, AuthenticatedUser)
    assert token is not None
    return JSONResponse(
        {
            "principal": [principal.org_id, principal.user_id, principal.key_id],
            "sdk": [token.client_id, token.subject, token.token, token.scopes, token.claims],
            "headers": dict(request.headers),
        }
    )


@pytest.fixture
async def made(keys: KeyStore) -> NewKey:
    return await keys.create(org_id="a" * 24, created_by="c" * 24, name="laptop")


@pytest.fixture
def spy(key_documents: Collection) -> SpyCollection:
    return SpyCollection(key_documents)


@pytest.fixture
async def client(spy: SpyCollection, clocks: Clocks) -> AsyncIterator[httpx.AsyncClient]:
    keys = KeyStore(spy, clock=clocks.epoch, monotonic=clocks.monotonic)
    app = ApiKeyAuth(AuthContextMiddleware(Starlette(routes=[Route("/who", who, methods=["GET", "POST"])])), keys)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://casemate") as opened:
        yield opened


def credentials(kind: str, key: str) -> dict[str, str]:
    return {"X-API-Key": key} if kind == "header" else {"Authorization": f"{kind} {key}"}


@pytest.mark.parametrize("kind", ["header", "Bearer", "bearer", "BEARER "])
async def test_a_good_key_lets_in_and_says_who_calls(client: httpx.AsyncClient, made: NewKey, kind: str) -> None:
    answer = await client.get("/who", headers=credentials(kind, made.plain))
    assert answer.status_code == 200
    assert answer.json()["principal"] == ["a" * 24, "c" * 24, made.record.id]
    assert answer.json()["sdk"] == ["api-key", "a" * 24, "-", [], {"user": "c" * 24}]


async def test_behind_the_gate_nobody_sees_the_key(client: httpx.AsyncClient, made: NewKey) -> None:
    answer = await client.get("/who", headers={"X-API-Key": made.plain, "X-Other": "stays"})
    assert made.plain not in answer.text
    assert answer.json()["headers"]["x-other"] == "stays"
    answer = await client.get("/who", headers={"Authorization": f"Bearer {made.plain}"})
    assert made.plain not in answer.text


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ([], 401, NO_KEY),
        ([("X-API-Key", "")], 401, NO_KEY),
        ([("X-API-Key", "  ")], 401, NO_KEY),
        ([("Authorization", "")], 401, NO_KEY),
        ([("Authorization", "Bearer")], 401, NO_KEY),
        ([("Authorization", "Bearer ")], 401, NO_KEY),
        ([("Authorization", "Basic Y206eA==")], 401, NO_KEY),
        ([("Authorization", UNKNOWN)], 401, NO_KEY),
        ([("X-API-Key", UNKNOWN)], 401, BAD_KEY),
        ([("Authorization", f"Bearer {UNKNOWN}")], 401, BAD_KEY),
        ([("X-API-Key", "vr_" + "A" * 43)], 401, BAD_KEY),
        ([("X-API-Key", "x" * 60_000)], 401, BAD_KEY),
        ([("X-API-Key", b"cm_\xff" + b"A" * 42)], 401, BAD_KEY),
        ([("Authorization", f"Bearer {UNKNOWN} {UNKNOWN}")], 401, BAD_KEY),
        ([("X-API-Key", UNKNOWN), ("Authorization", f"Bearer {UNKNOWN}")], 400, BOTH),
        ([("X-API-Key", UNKNOWN), ("X-API-Key", UNKNOWN)], 400, "more than once"),
        ([("X-API-Key", ""), ("x-api-key", UNKNOWN)], 400, "more than once"),
        ([("Authorization", f"Bearer {UNKNOWN}"), ("Authorization", "Basic x")], 400, "more than once"),
    ],
)
async def test_anything_else_is_refused(
    client: httpx.AsyncClient, headers: list[tuple[str, str | bytes]], status: int, error: str
) -> None:
    raw = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
    answer = await client.post("/who", headers=raw, content=b"{}")
    assert answer.status_code == status
    assert error in answer.json()["error"]
    assert set(answer.json()) == {"error", "details"}
    assert isinstance(answer.json()["details"], str)
    assert "www-authenticate" not in answer.headers
    assert "AAAA" not in answer.text


async def test_two_good_keys_at_once_are_refused_too(client: httpx.AsyncClient, made: NewKey) -> None:
    headers = {"X-API-Key": made.plain, "Authorization": f"Bearer {made.plain}"}
    answer = await client.get("/who", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, BOTH)


async def test_a_proxys_basic_authorization_does_not_disturb_the_key_header(
    client: httpx.AsyncClient, made: NewKey
) -> None:
    headers = {"X-API-Key": made.plain, "Authorization": "Basic Y206eA=="}
    assert (await client.get("/who", headers=headers)).status_code == 200


async def test_a_key_in_the_address_is_not_taken(client: httpx.AsyncClient, made: NewKey) -> None:
    answer = await client.get("/who", params={"apiKey": made.plain})
    assert (answer.status_code, answer.json()["error"]) == (401, NO_KEY)


async def test_a_revoked_key_is_refused(
    client: httpx.AsyncClient, made: NewKey, keys: KeyStore, clocks: Clocks
) -> None:
    headers = {"X-API-Key": made.plain}
    assert (await client.get("/who", headers=headers)).status_code == 200
    await keys.revoke("a" * 24, made.record.id)
    clocks.advance(5)
    answer = await client.get("/who", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, BAD_KEY)


async def test_a_store_that_fails_is_503_and_says_when_to_try_again(
    client: httpx.AsyncClient, made: NewKey, spy: SpyCollection
) -> None:
    spy.failure = StoreUnavailable("gone")
    answer = await client.get("/who", headers={"X-API-Key": made.plain})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert set(answer.json()) == {"error", "details"}
    spy.failure = None
    assert (await client.get("/who", headers={"X-API-Key": made.plain})).status_code == 200


async def test_keys_never_reach_logs(
    client: httpx.AsyncClient, made: NewKey, spy: SpyCollection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as captured:
        for key in (made.plain, UNKNOWN, f"{made.plain}x"):
            await client.get("/who", headers={"X-API-Key": key})
            await client.get("/who", headers={"Authorization": f"Bearer {key}"})
            await client.get("/who", headers={"X-API-Key": key, "Authorization": f"Bearer {key}"})
        spy.failure = StoreUnavailable("gone")
        await client.get("/who", headers={"X-API-Key": UNKNOWN})
    assert [entry["log_level"] for entry in captured] == ["error"]
    for text in (caplog.text, repr(captured)):
        assert made.plain[3:-4] not in text
        assert made.record.digest not in text
        assert "AAAA" not in text


async def converse(app: ApiKeyAuth, scope: Scope, received: list[Message]) -> list[Message]:
    """Everything that the application sends when these messages come in."""
    waiting, sent = iter(received), list[Any]()

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def accept(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept", "user": scope["state"]["principal"].user_id})


async def test_a_websocket_needs_a_key(keys: KeyStore, made: NewKey) -> None:
    gate = ApiKeyAuth(accept, keys)
    connect: list[Message] = [{"type": "websocket.connect"}]
    assert await converse(gate, {"type": "websocket", "headers": []}, connect) == [
        {"type": "websocket.close", "code": 1008, "reason": NO_KEY}
    ]
    with_key: Scope = {"type": "websocket", "headers": [(b"x-api-key", made.plain.encode())]}
    assert await converse(gate, with_key, connect) == [{"type": "websocket.accept", "user": "c" * 24}]


async def test_a_websocket_is_refused_by_an_http_answer_where_the_server_can(keys: KeyStore) -> None:
    scope: Scope = {
        "type": "websocket",
        "headers": [(b"x-api-key", UNKNOWN.encode())],
        "extensions": {"websocket.http.response": {}},
    }
    sent = await converse(ApiKeyAuth(accept, keys), scope, [{"type": "websocket.connect"}])
    assert [message["type"] for message in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert sent[0]["status"] == 401


async def test_the_lifespan_passes_untouched(keys: KeyStore) -> None:
    seen: list[Scope] = []

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
    assert await converse(ApiKeyAuth(lifespan, keys), scope, []) == []
    assert seen == [{"type": "lifespan", "asgi": {"version": "3.0"}}]
