"""The gate in front of a real application, over the ASGI transport of a real client."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
import structlog.testing
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware, get_access_token
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from auth.api_key import NewKey
from auth.claims import principal_of
from auth.principal import Principal
from auth.roles import Role, Scope
from auth.static_keys import StaticKeys
from storage.errors import StoreUnavailable
from tests.auth.rig import Rig

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Send
    from starlette.types import Scope as Connection

pytestmark = pytest.mark.anyio

UNKNOWN = "cm_" + "A" * 43
NO_KEY = "authentication required (X-API-Key or Bearer token)"
BAD_KEY = "invalid or inactive API key"
BOTH = "provide either X-API-Key or Bearer token, not both"


async def who(request: Request) -> JSONResponse:
    """What the application learns about its caller."""
    principal: Principal = request.state.principal
    token = get_access_token()
    assert token is not None
    assert principal_of(token) == principal
    return JSONResponse(
        {
            "org": principal.org_id,
            "user": principal.user_id,
            "key": principal.key_id,
            "scopes": sorted(principal.scopes),
            "role": principal.role,
            "operator": principal.operator,
            "method": principal.method,
            "sdk": [token.client_id, token.subject, token.token],
            "headers": dict(request.headers),
            "query": request.url.query,
        }
    )


def application() -> ASGIApp:
    return AuthContextMiddleware(Starlette(routes=[Route("/who", who, methods=["GET", "POST"])]))


@asynccontextmanager
async def client(rig: Rig, *, address: str = "192.0.2.1", **options: Any) -> AsyncGenerator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(rig.gate(application(), **options), client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://casemate") as opened:
        yield opened


async def ask(rig: Rig, headers: dict[str, str], **options: Any) -> httpx.Response:
    async with client(rig, **options) as opened:
        return await opened.get("/who", headers=headers)


@pytest.fixture
async def made(rig: Rig) -> NewKey:
    return await rig.key(*await rig.user("ada"))


def credentials(kind: str, key: str) -> dict[str, str]:
    return {"X-API-Key": key} if kind == "header" else {"Authorization": f"{kind} {key}"}


@pytest.mark.parametrize("kind", ["header", "Bearer", "bearer", "BEARER "])
async def test_a_good_key_lets_in_and_says_who_calls(rig: Rig, made: NewKey, kind: str) -> None:
    answer = await ask(rig, credentials(kind, made.plain))
    assert answer.status_code == 200
    said = answer.json()
    assert (said["org"], said["user"], said["key"]) == (made.record.org_id, made.record.created_by, made.record.id)
    assert (said["role"], said["operator"], said["method"]) == ("owner", False, "key")
    assert said["scopes"] == ["admin", "read", "run"]
    assert said["sdk"] == ["api-key", made.record.org_id, "-"]


async def test_behind_the_gate_nobody_sees_the_key(rig: Rig, made: NewKey) -> None:
    answer = await ask(rig, {"X-API-Key": made.plain, "X-Other": "stays"})
    assert made.plain not in answer.text
    assert answer.json()["headers"]["x-other"] == "stays"
    assert made.plain not in (await ask(rig, {"Authorization": f"Bearer {made.plain}"})).text


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
        ([("Authorization", "Bearer a.b.c")], 401, "invalid bearer token"),
        ([("X-API-Key", "vr_" + "A" * 43)], 401, BAD_KEY),
        ([("X-API-Key", "x" * 60_000)], 401, BAD_KEY),
        ([("X-API-Key", b"cm_\xff" + b"A" * 42)], 401, BAD_KEY),
        ([("Authorization", f"Bearer {UNKNOWN} {UNKNOWN}")], 401, BAD_KEY),
        ([("X-API-Key", UNKNOWN), ("Authorization", f"Bearer {UNKNOWN}")], 400, BOTH),
        ([("X-API-Key", UNKNOWN), ("X-API-Key", UNKNOWN)], 400, "more than once"),
        ([("X-API-Key", ""), ("x-api-key", UNKNOWN)], 400, "more than once"),
        ([("Authorization", f"Bearer {UNKNOWN}"), ("Authorization", "Basic x")], 400, "more than once"),
        ([("X-API-Key", UNKNOWN), ("X-Org-ID", "a"), ("X-Org-ID", "a")], 400, "more than once"),
    ],
)
async def test_anything_else_is_refused(
    rig: Rig, headers: list[tuple[str, str | bytes]], status: int, error: str
) -> None:
    raw = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
    async with client(rig) as opened:
        answer = await opened.post("/who", headers=raw, content=b"{}")
    assert answer.status_code == status
    assert error in answer.json()["error"]
    assert set(answer.json()) == {"error", "details"}
    assert isinstance(answer.json()["details"], str)
    assert "www-authenticate" not in answer.headers
    assert "AAAA" not in answer.text


async def test_two_good_keys_at_once_are_refused_too(rig: Rig, made: NewKey) -> None:
    answer = await ask(rig, {"X-API-Key": made.plain, "Authorization": f"Bearer {made.plain}"})
    assert (answer.status_code, answer.json()["error"]) == (400, BOTH)


async def test_a_proxys_basic_authorization_does_not_disturb_the_key_header(rig: Rig, made: NewKey) -> None:
    answer = await ask(rig, {"X-API-Key": made.plain, "Authorization": "Basic Y206eA=="})
    assert answer.status_code == 200


async def test_a_key_in_the_address_of_a_request_is_not_taken_and_not_passed_on(rig: Rig, made: NewKey) -> None:
    async with client(rig) as opened:
        answer = await opened.get("/who", params={"apiKey": made.plain})
        assert (answer.status_code, answer.json()["error"]) == (401, NO_KEY)
        assert "WebSockets only" in answer.json()["details"]
        answer = await opened.get(
            "/who", params={"a": "1", "apiKey": made.plain, "b": "2"}, headers={"X-API-Key": made.plain}
        )
    assert answer.json()["query"] == "a=1&b=2"


async def test_a_store_that_fails_is_503_and_says_when_to_try_again(rig: Rig, made: NewKey) -> None:
    for spy in rig.spies.values():
        spy.failure = StoreUnavailable("gone")
    answer = await ask(rig, {"X-API-Key": made.plain})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert set(answer.json()) == {"error", "details"}
    for spy in rig.spies.values():
        spy.failure = None
    assert (await ask(rig, {"X-API-Key": made.plain})).status_code == 200


async def test_credentials_never_reach_logs(rig: Rig, made: NewKey, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as captured:
        for key in (made.plain, UNKNOWN, f"{made.plain}x", f"{made.plain}.x.y"):
            await ask(rig, {"X-API-Key": key})
            await ask(rig, {"Authorization": f"Bearer {key}"})
            await ask(rig, {"X-API-Key": key, "Authorization": f"Bearer {key}"})
        rig.spies["api_keys"].failure = StoreUnavailable("gone")
        await ask(rig, {"X-API-Key": UNKNOWN})
    assert [entry["log_level"] for entry in captured] == ["error"]
    # The client's own wire and the store's driver say at DEBUG what they send; the server keeps both quieter.
    others = ("httpcore", "pymongo")
    logs = "".join(record.getMessage() for record in caplog.records if not record.name.startswith(others))
    for text in (logs, repr(captured)):
        assert made.plain[3:-4] not in text
        assert made.record.digest not in text
        assert "AAAA" not in text


async def test_a_refusal_says_its_request_id_and_leaves_its_reason(rig: Rig) -> None:
    scope: Connection = {"type": "http", "headers": [], "state": {"request_id": "r-1"}}
    sent = await converse(rig.gate(application()), scope, [])
    assert b'"requestId": "r-1"' in sent[1]["body"]
    assert scope["state"]["refusal"] == "no credential"


async def test_a_keys_scopes_go_with_it(rig: Rig) -> None:
    user, org_id = await rig.user("ada")
    for scope, worth in ((Scope.READ, ["read"]), (Scope.RUN, ["read", "run"]), (Scope.ADMIN, ["admin", "read", "run"])):
        key = await rig.key(user, org_id, scopes=frozenset({scope}))
        assert (await ask(rig, {"X-API-Key": key.plain})).json()["scopes"] == worth


async def test_a_members_key_never_administers(rig: Rig) -> None:
    (_, org_id), (bob, _) = await rig.user("ada"), await rig.user("bob")
    await rig.join(bob, org_id)
    key = await rig.key(bob, org_id)
    said = (await ask(rig, {"X-API-Key": key.plain})).json()
    assert (said["role"], said["scopes"]) == ("member", ["read", "run"])
    await rig.accounts.organisations.set_role(org_id, bob.id, Role.OWNER)
    assert (await ask(rig, {"X-API-Key": key.plain})).json()["scopes"] == ["admin", "read", "run"]


async def test_the_key_of_a_removed_member_is_refused_like_an_unknown_one(rig: Rig) -> None:
    (_, org_id), (bob, _) = await rig.user("ada"), await rig.user("bob")
    await rig.join(bob, org_id)
    key = await rig.key(bob, org_id)
    assert (await ask(rig, {"X-API-Key": key.plain})).status_code == 200
    await rig.accounts.organisations.remove(org_id, bob.id)
    refused, unknown = await ask(rig, {"X-API-Key": key.plain}), await ask(rig, {"X-API-Key": UNKNOWN})
    assert refused.status_code == unknown.status_code == 401
    assert refused.json() == unknown.json()


async def test_what_another_server_takes_away_is_gone_within_five_seconds(rig: Rig) -> None:
    other = Rig(spies=rig.spies, clocks=rig.clocks)
    (_, org_id), (bob, _) = await rig.user("ada"), await rig.user("bob")
    await rig.join(bob, org_id)
    first, second = await rig.key(bob, org_id), await rig.key(bob, org_id)
    for key in (first, second):
        assert (await ask(rig, {"X-API-Key": key.plain})).status_code == 200
    await other.keys.set_active(org_id, first.record.id, active=False)
    rig.clocks.advance(5)
    assert (await ask(rig, {"X-API-Key": first.plain})).status_code == 401
    assert (await ask(rig, {"X-API-Key": second.plain})).status_code == 200
    await other.accounts.organisations.remove(org_id, bob.id)
    rig.clocks.advance(5)
    assert (await ask(rig, {"X-API-Key": second.plain})).status_code == 401


async def test_the_key_of_an_organisation_that_is_gone_is_refused(rig: Rig, made: NewKey) -> None:
    await rig.spies["organisations"].delete(made.record.org_id)
    assert (await ask(rig, {"X-API-Key": made.plain})).status_code == 401


async def test_a_good_key_costs_three_reads_and_then_none_for_five_seconds(rig: Rig, made: NewKey) -> None:
    before = rig.reads
    for _ in range(5):
        assert (await ask(rig, {"X-API-Key": made.plain})).status_code == 200
    assert rig.reads == before + 3
    before = rig.reads
    await ask(rig, {"X-API-Key": UNKNOWN})
    assert rig.reads == before + 1


async def test_operators_keys_carry_it_only_with_admin(rig: Rig) -> None:
    user, org_id = await rig.user("ada")
    await rig.accounts.users.make_operator(user.id)
    full, run = await rig.key(user, org_id), await rig.key(user, org_id, scopes=frozenset({Scope.RUN}))
    assert (await ask(rig, {"X-API-Key": full.plain})).json()["operator"] is True
    assert (await ask(rig, {"X-API-Key": run.plain})).json()["operator"] is False


async def test_keys_of_the_configuration_speak_for_their_principal_without_a_read(rig: Rig) -> None:
    texts = ["configured-key-number-one", "configured-key-number-two"]
    principal = Principal(org_id="a" * 24, user_id="b" * 24, operator=True)
    rig.options["static"] = StaticKeys(texts, principal)
    rig.build()
    said = [
        (await ask(rig, credentials(kind, texts[number]))).json() for number, kind in enumerate(("header", "Bearer"))
    ]
    assert [(it["org"], it["user"], it["operator"]) for it in said] == [("a" * 24, "b" * 24, True)] * 2
    assert len({it["key"] for it in said}) == 2
    assert rig.reads == 0
    assert (await ask(rig, {"X-API-Key": texts[0][:-1]})).status_code == 401


async def test_in_local_mode_nobody_needs_a_credential_and_a_given_one_is_checked(rig: Rig, made: NewKey) -> None:
    rig.options["local"] = Principal(org_id="a" * 24, user_id="b" * 24, key_id="c" * 24, operator=True)
    rig.build()
    said = (await ask(rig, {"X-API-Key": ""})).json()
    assert (said["org"], said["key"], said["method"], said["operator"]) == ("a" * 24, "", "local", True)
    assert (await ask(rig, {"X-API-Key": UNKNOWN})).status_code == 401
    assert (await ask(rig, {"X-API-Key": made.plain})).json()["org"] == made.record.org_id


async def converse(app: ASGIApp, scope: Connection, received: list[Message]) -> list[Message]:
    """Everything that the application sends when these messages come in."""
    waiting, sent = iter(received), list[Any]()

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def accept(scope: Connection, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept", "user": scope["state"]["principal"].user_id, "scope": dict(scope)})


async def handshake(rig: Rig, **scope: Any) -> Message:
    connect: list[Message] = [{"type": "websocket.connect"}]
    return (await converse(rig.gate(accept), {"type": "websocket", "headers": [], **scope}, connect))[0]


async def test_a_websocket_needs_a_key(rig: Rig, made: NewKey) -> None:
    assert await handshake(rig) == {"type": "websocket.close", "code": 1008, "reason": NO_KEY}
    accepted = await handshake(rig, headers=[(b"x-api-key", made.plain.encode())])
    assert accepted["user"] == made.record.created_by


@pytest.mark.parametrize("name", ["apiKey", "apikey", "api%4bey", "APIKEY"])
async def test_a_websocket_may_have_its_key_in_the_address_where_nobody_else_sees_it(
    rig: Rig, made: NewKey, name: str
) -> None:
    accepted = await handshake(rig, query_string=f"cols=80&{name}={made.plain}&rows=24".encode())
    assert accepted["user"] == made.record.created_by
    assert accepted["scope"]["query_string"] == b"cols=80&rows=24"
    assert made.plain not in repr(accepted["scope"])


async def test_a_websocket_with_two_keys_is_refused(rig: Rig, made: NewKey) -> None:
    query = f"apiKey={made.plain}".encode()
    for scope in (
        {"query_string": query, "headers": [(b"x-api-key", made.plain.encode())]},
        {"query_string": query, "headers": [(b"authorization", b"Bearer " + made.plain.encode())]},
        {"query_string": query + b"&" + query},
    ):
        assert (await handshake(rig, **scope))["type"] == "websocket.close"
    assert (await handshake(rig, query_string=b"apiKey=&x=1"))["reason"] == NO_KEY


async def test_a_websocket_is_refused_by_an_http_answer_where_the_server_can(rig: Rig) -> None:
    scope: Connection = {
        "type": "websocket",
        "headers": [(b"x-api-key", UNKNOWN.encode())],
        "extensions": {"websocket.http.response": {}},
    }
    sent = await converse(rig.gate(accept), scope, [{"type": "websocket.connect"}])
    assert [message["type"] for message in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert sent[0]["status"] == 401


async def test_the_lifespan_passes_untouched(rig: Rig) -> None:
    seen: list[Connection] = []

    async def lifespan(scope: Connection, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Connection = {"type": "lifespan", "asgi": {"version": "3.0"}}
    assert await converse(rig.gate(lifespan), scope, []) == []
    assert seen == [{"type": "lifespan", "asgi": {"version": "3.0"}}]
