"""Registration, members, keys and invitations over REST, through the real gate on a real store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette

from auth.registration import RegistrationPolicy
from auth.roles import Role, Scope
from auth.users import User
from mcp_server.rest.accounts import AccountRoutes
from mcp_server.rest.endpoint import routes
from mcp_server.rest.keys import KeyRoutes
from mcp_server.rest.operator import OperatorRoutes
from storage.sqlite import SqliteDatabase
from tests.auth.clocks import Clocks
from tests.auth.rig import Rig, open_rig

pytestmark = pytest.mark.anyio

KEYS = "/api/orgs/apikeys"
USERS = "/api/orgs/users"
INVITATIONS = "/api/operator/invitations"
UNKNOWN = "f" * 24
MEGABYTE = "x" * 1_000_000


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with SqliteDatabase(tmp_path / "store" / "casemate.db") as database:
        yield await open_rig(database, Clocks())


@asynccontextmanager
async def client(
    rig: Rig, key: str = "", *, policy: RegistrationPolicy = RegistrationPolicy.OPEN
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a server; with a key, or without one for what is open."""
    accounts = AccountRoutes(rig.accounts, rig.registration(policy), rig.limits)
    keys = KeyRoutes(rig.keys, rig.accounts, clock=rig.clocks.epoch)
    operator = OperatorRoutes(rig.accounts, rig.invitations)
    behind = routes([*accounts.endpoints(), *keys.endpoints(), *operator.endpoints()])
    app = rig.gate(Starlette(routes=behind)) if key else Starlette(routes=routes(accounts.open_endpoints()))
    headers = {"x-api-key": key} if key else {}
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://casemate", headers=headers) as opened:
        yield opened


async def call(rig: Rig, method: str, path: str, *, key: str = "", **body: Any) -> httpx.Response:
    async with client(rig, key) as opened:
        return await opened.request(method, path, json=body) if body else await opened.request(method, path)


async def registered(rig: Rig, name: str = "ada") -> tuple[str, str, str]:
    """A new user's key, id and organisation."""
    answer = await call(rig, "POST", "/api/register", name=name.title(), email=f"{name}@example.org")
    assert answer.status_code == 201, answer.text
    made = answer.json()
    return made["apiKey"]["plainKey"], made["user"]["id"], made["organisation"]["id"]


async def member_of(rig: Rig, org_id: str, name: str = "bob") -> tuple[str, User]:
    """The key of a plain member of an organisation."""
    user, _ = await rig.user(name)
    await rig.join(user, org_id)
    return (await rig.key(user, org_id)).plain, user


async def operator_key(rig: Rig) -> str:
    user, org_id = await rig.user("root")
    await rig.accounts.users.make_operator(user.id)
    return (await rig.key(user, org_id)).plain


async def test_registering_gives_a_user_an_organisation_and_a_key_that_works(rig: Rig) -> None:
    answer = await call(rig, "POST", "/api/register", name="Ada Lovelace", email="Ada@Example.org")
    assert answer.status_code == 201
    made = answer.json()
    assert (made["user"]["name"], made["user"]["email"]) == ("Ada Lovelace", "ada@example.org")
    assert made["organisation"]["name"] == "Ada-Org"
    key: str = made["apiKey"]["plainKey"]
    me = (await call(rig, "GET", "/api/users/me", key=key)).json()
    assert me["id"] == made["user"]["id"]
    assert me["orgs"] == [{"id": made["organisation"]["id"], "name": "Ada-Org", "role": "owner"}]
    assert (me["orgId"], me["scopes"], me["operator"]) == (me["orgs"][0]["id"], ["admin", "read", "run"], False)
    again = await call(rig, "POST", "/api/register", name="Eve", email="ADA@example.org")
    assert again.status_code == 409
    listed = (await call(rig, "GET", KEYS, key=key)).text
    assert key not in listed
    assert key[:7] in listed


async def test_of_fifty_registrations_at_once_one_wins(rig: Rig) -> None:
    rig.limited["registrations_per_hour"] = 0
    rig.build()
    statuses: list[int] = []

    async def register(number: int) -> None:
        answer = await call(rig, "POST", "/api/register", name=f"User {number}", email="same@example.org")
        statuses.append(answer.status_code)

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(register, number)
    assert sorted(statuses) == [201, *[409] * 49]


NO_TEXTS: tuple[object, ...] = ("", " ", None, 7, [], {}, MEGABYTE, "a\0b", "\x1b")
BAD_FIELDS: list[tuple[str, object]] = [
    *((field, value) for field in ("name", "email") for value in NO_TEXTS),
    ("name", "x" * 101),
    ("name", "ada\N{RIGHT-TO-LEFT OVERRIDE}"),
    ("email", "аda@example.org"),  # noqa: RUF001 -- a Cyrillic letter
    ("organisation", "a\nb"),
    ("organisation", 7),
    ("invitation", 7),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
async def test_a_bad_field_of_a_registration_is_named(rig: Rig, field: str, value: object) -> None:
    body: dict[str, Any] = {"name": "Ada", "email": "ada@example.org", field: value}
    answer = await call(rig, "POST", "/api/register", **body)
    if isinstance(value, str) and len(value) > 100_000:
        assert answer.status_code == 413
    else:
        assert answer.status_code == 400
        assert field.removeprefix("org") in answer.json()["error"]
    assert len(answer.text) < 1000
    assert await rig.accounts.users.list() == []


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff", b'{"name": "Ada"}'])
async def test_a_body_that_says_too_little_is_refused(rig: Rig, content: bytes) -> None:
    async with client(rig) as opened:
        assert (await opened.post("/api/register", content=content)).status_code == 400


async def test_an_address_registers_a_few_times_an_hour(rig: Rig) -> None:
    rig.limited["registrations_per_hour"] = 2
    rig.build()
    first, second, third = [
        await call(rig, "POST", "/api/register", name="U", email=f"user{number}@example.org") for number in range(3)
    ]
    assert (first.status_code, second.status_code, third.status_code) == (201, 201, 429)
    assert first.headers["ratelimit-remaining"] == "1"
    assert 0 < int(third.headers["retry-after"]) <= 3600
    rig.clocks.advance(3600)
    assert (await call(rig, "POST", "/api/register", name="U", email="user2@example.org")).status_code == 201


async def test_a_closed_server_says_so_and_an_invitation_opens_it(rig: Rig) -> None:
    person = {"name": "Ada", "email": "ada@example.org"}
    made = await call(rig, "POST", INVITATIONS, key=await operator_key(rig), email="ada@example.org")
    assert made.status_code == 201
    code: str = made.json()["data"]["code"]
    async with client(rig, policy=RegistrationPolicy.CLOSED) as opened:
        assert (await opened.post("/api/register", json={**person, "invitation": code})).status_code == 403
    async with client(rig, policy=RegistrationPolicy.INVITE) as opened:
        refused = [
            await opened.post("/api/register", json=person),
            await opened.post("/api/register", json={**person, "invitation": "ci_" + "A" * 43}),
        ]
        assert [answer.status_code for answer in refused] == [403, 403]
        assert (await opened.post("/api/register", json={**person, "invitation": code})).status_code == 201
        other = {"name": "Bob", "email": "bob@example.org", "invitation": code}
        answer = await opened.post("/api/register", json=other)
    assert answer.status_code == 403
    assert code not in answer.text


async def test_a_key_is_made_with_status_200_and_listed_masked(rig: Rig) -> None:
    key, user_id, org_id = await registered(rig)
    answer = await call(rig, "POST", KEYS, key=key, keyName=" laptop ", scopes=["run"], expiresInSeconds=30 * 86_400)
    assert answer.status_code == 200
    made = answer.json()
    assert (made["keyName"], made["orgId"], made["scopes"], made["expiresIn"]) == ("laptop", org_id, ["run"], "30 days")
    listed = (await call(rig, "GET", KEYS, key=key)).json()
    assert [it["name"] for it in listed] == ["laptop", "first key"]
    assert listed[0] == {
        "id": made["keyId"],
        "orgId": org_id,
        "name": "laptop",
        "maskedKey": f"{made['plainKey'][:7]}…{made['plainKey'][-4:]}",
        "scopes": ["run"],
        "createdBy": user_id,
        "createdAt": made["createdAt"],
        "isActive": True,
        "expiresAt": made["expiresAt"],
    }
    never = (await call(rig, "POST", KEYS, key=key, keyName="for ever")).json()
    assert (never["expiresIn"], never["scopes"]) == ("Never (until revoked)", ["read", "run", "admin"])
    assert "expiresAt" not in never


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"keyName": ""},
        {"keyName": " "},
        {"keyName": None},
        {"keyName": 7},
        {"keyName": "x" * 101},
        {"keyName": "a\0b"},
        {"keyName": "k", "expiresAt": "tomorrow"},
        {"keyName": "k", "expiresAt": "2020-01-01T00:00:00Z"},
        {"keyName": "k", "expiresAt": "2030-01-01T00:00:00"},
        {"keyName": "k", "expiresAt": "9999-12-31T23:59:59Z"},
        {"keyName": "k", "expiresAt": "0001-01-01T00:00:00+23:59"},
        {"keyName": "k", "expiresAt": 7},
        {"keyName": "k", "expiresInSeconds": -1},
        {"keyName": "k", "expiresInSeconds": 10**12},
        {"keyName": "k", "expiresInSeconds": "60"},
        {"keyName": "k", "expiresInSeconds": 60, "expiresAt": "2023-11-20T00:00:00Z"},
        {"keyName": "k", "scopes": ["root"]},
        {"keyName": "k", "scopes": "run"},
        {"keyName": "k", "scopes": ["run"] * 11},
    ],
)
async def test_a_bad_wish_for_a_key_is_refused(rig: Rig, wish: dict[str, Any]) -> None:
    key, _, org_id = await registered(rig)
    async with client(rig, key) as opened:
        answer = await opened.post(KEYS, json=wish)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert len(await rig.keys.list(org_id)) == 1


async def test_a_key_cannot_make_one_that_is_good_for_more(rig: Rig) -> None:
    key, _, _ = await registered(rig)
    for scope, status in (("read", 403), ("run", 403), ("admin", 200)):
        made = (await call(rig, "POST", KEYS, key=key, keyName=scope, scopes=[scope])).json()
        answer = await call(rig, "POST", KEYS, key=made["plainKey"], keyName="more", scopes=["admin"])
        assert answer.status_code == status, answer.text


async def test_a_key_ends_in_the_ways_of_voidrun(rig: Rig) -> None:
    key, _, _ = await registered(rig)
    made = (await call(rig, "POST", KEYS, key=key, keyName="laptop")).json()
    one, plain = f"{KEYS}/{made['keyId']}", made["plainKey"]
    assert (await call(rig, "PATCH", f"{one}/touch", key=key)).json()["message"] == "API key touched"
    assert "lastUsedAt" in (await call(rig, "GET", KEYS, key=key)).json()[0]
    answer = await call(rig, "POST", f"{one}/activate", key=key, isActive=False)
    assert answer.json() == {"status": "success", "message": "API key deactivated"}
    assert (await call(rig, "GET", KEYS, key=plain)).status_code == 401
    assert (await call(rig, "POST", f"{one}/activate", key=key, isActive=True)).json()["message"] == "API key activated"
    assert (await call(rig, "GET", KEYS, key=plain)).status_code == 200
    assert (await call(rig, "DELETE", one, key=key)).json()["message"] == "API key revoked"
    assert (await call(rig, "GET", KEYS, key=plain)).status_code == 401
    for method, path in (("DELETE", one), ("PATCH", f"{one}/touch")):
        assert (await call(rig, method, path, key=key)).status_code == 404
    assert (await call(rig, "POST", f"{one}/activate", key=key, isActive=True)).status_code == 404


@pytest.mark.parametrize("wish", [{"isActive": None}, {"isActive": "yes"}, {"isActive": 1}, {"active": True}])
async def test_whether_a_key_is_active_is_a_boolean(rig: Rig, wish: dict[str, Any]) -> None:
    key, _, org_id = await registered(rig)
    (own,) = await rig.keys.list(org_id)
    assert (await call(rig, "POST", f"{KEYS}/{own.id}/activate", key=key, **wish)).status_code == 400


async def test_a_strangers_key_is_like_one_that_is_not_there(rig: Rig) -> None:
    key, _, _ = await registered(rig)
    _, _, other = await registered(rig, "eve")
    (theirs,) = await rig.keys.list(other)
    for method, tail, body in (("DELETE", "", {}), ("PATCH", "/touch", {}), ("POST", "/activate", {"isActive": False})):
        answers = [
            await call(rig, method, f"{KEYS}/{key_id}{tail}", key=key, **body) for key_id in (theirs.id, UNKNOWN)
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].text.replace(theirs.id, UNKNOWN) == answers[1].text
    assert (await rig.keys.list(other))[0].is_active
    for odd in ("x", "%00", "a" * 5000, "..%2f.."):
        assert (await call(rig, "DELETE", f"{KEYS}/{odd}", key=key)).status_code == 404


async def test_a_member_sees_and_ends_own_keys_only(rig: Rig) -> None:
    key, _, org_id = await registered(rig)
    bobs, bob = await member_of(rig, org_id)
    made = (await call(rig, "POST", KEYS, key=bobs, keyName="second")).json()
    assert made["scopes"] == ["read", "run"]
    listed = (await call(rig, "GET", KEYS, key=bobs)).json()
    assert {it["createdBy"] for it in listed} == {bob.id}
    assert len((await call(rig, "GET", KEYS, key=key)).json()) == 3
    adas = next(it for it in await rig.keys.list(org_id) if it.created_by != bob.id)
    assert (await call(rig, "DELETE", f"{KEYS}/{adas.id}", key=bobs)).status_code == 404
    assert (await call(rig, "DELETE", f"{KEYS}/{made['keyId']}", key=bobs)).status_code == 200
    for scopes in (["admin"], ["read", "admin"]):
        assert (await call(rig, "POST", KEYS, key=bobs, keyName="more", scopes=scopes)).status_code == 403


async def test_an_owner_makes_a_key_for_a_member_who_has_none(rig: Rig) -> None:
    key, user_id, org_id = await registered(rig)
    bob, _ = await rig.user("bob")
    wish = {"keyName": "for bob", "userId": bob.id}
    assert (await call(rig, "POST", KEYS, key=key, **wish)).status_code == 404
    await rig.join(bob, org_id)
    made = (await call(rig, "POST", KEYS, key=key, **wish)).json()
    me = (await call(rig, "GET", "/api/users/me", key=made["plainKey"])).json()
    assert (me["id"], me["orgId"], me["role"], me["scopes"]) == (bob.id, org_id, "member", ["read", "run"])
    for_ada = {"keyName": "for ada", "userId": user_id}
    assert (await call(rig, "POST", KEYS, key=made["plainKey"], **for_ada)).status_code == 403


async def test_an_owner_takes_people_in_and_out(rig: Rig) -> None:
    key, _, org_id = await registered(rig)
    _, bob, _ = await registered(rig, "bob")
    added = await call(rig, "POST", USERS, key=key, email="BOB@example.org")
    assert (added.status_code, added.json()["data"]["role"]) == (201, "member")
    listed = (await call(rig, "GET", USERS, key=key)).json()
    assert listed["message"] == "users"
    assert [(it["email"], it["role"]) for it in listed["data"]] == [
        ("ada@example.org", "owner"),
        ("bob@example.org", "member"),
    ]
    assert (await call(rig, "PATCH", f"{USERS}/{bob}", key=key, role="owner")).status_code == 200
    standing = await rig.accounts.standing(org_id, bob)
    assert standing is not None
    assert standing.role is Role.OWNER
    assert (await call(rig, "DELETE", f"{USERS}/{bob}", key=key)).json()["message"] == "user removed"
    assert (await call(rig, "DELETE", f"{USERS}/{bob}", key=key)).status_code == 404


async def test_the_keys_of_a_member_who_was_removed_stay_off_when_the_member_returns(rig: Rig) -> None:
    key, ada, org_id = await registered(rig)
    bobs, bob = await member_of(rig, org_id)
    assert (await call(rig, "DELETE", f"{USERS}/{ada}", key=key)).status_code == 409
    assert (await call(rig, "DELETE", f"{USERS}/{bob.id}", key=key)).status_code == 200
    assert (await call(rig, "GET", KEYS, key=bobs)).status_code == 401
    assert (await call(rig, "POST", USERS, key=key, email=bob.email)).status_code == 201
    assert (await call(rig, "GET", KEYS, key=bobs)).status_code == 401
    assert {it.created_by: it.is_active for it in await rig.keys.list(org_id)} == {ada: True, bob.id: False}


async def test_the_last_owner_can_neither_go_nor_become_a_member(rig: Rig) -> None:
    key, ada, _ = await registered(rig)
    assert (await call(rig, "DELETE", f"{USERS}/{ada}", key=key)).status_code == 409
    assert (await call(rig, "PATCH", f"{USERS}/{ada}", key=key, role="member")).status_code == 409


@pytest.mark.parametrize(
    ("method", "wish", "status"),
    [
        ("POST", {"email": ""}, 400),
        ("POST", {"email": None}, 400),
        ("POST", {"email": "nobody@example.org"}, 404),
        ("POST", {"email": "ada@example.org", "role": "king"}, 400),
        ("PATCH", {"role": "king"}, 400),
        ("PATCH", {"role": None}, 400),
        ("PATCH", {"role": 1}, 400),
    ],
)
async def test_bad_wishes_about_members_are_refused(rig: Rig, method: str, wish: dict[str, Any], status: int) -> None:
    key, ada, _ = await registered(rig)
    path = USERS if method == "POST" else f"{USERS}/{ada}"
    assert (await call(rig, method, path, key=key, **wish)).status_code == status


async def test_a_member_manages_nobody(rig: Rig) -> None:
    _, ada, org_id = await registered(rig)
    bobs, _ = await member_of(rig, org_id)
    assert (await call(rig, "GET", USERS, key=bobs)).status_code == 200
    assert (await call(rig, "POST", USERS, key=bobs, email="ada@example.org")).status_code == 403
    assert (await call(rig, "PATCH", f"{USERS}/{ada}", key=bobs, role="member")).status_code == 403
    assert (await call(rig, "DELETE", f"{USERS}/{ada}", key=bobs)).status_code == 403


async def test_a_reader_changes_nothing(rig: Rig) -> None:
    user, org_id = await rig.user("ada")
    reader = await rig.key(user, org_id, scopes=frozenset({Scope.READ}))
    one = f"{KEYS}/{reader.record.id}"
    for method, path in (("POST", KEYS), ("DELETE", one), ("PATCH", f"{one}/touch"), ("POST", USERS)):
        answer = await call(rig, method, path, key=reader.plain)
        assert answer.status_code == 403
        assert "the credential has read" in answer.json()["error"]
    assert (await call(rig, "GET", KEYS, key=reader.plain)).status_code == 200


async def test_the_operator_invites_and_sees_users(rig: Rig) -> None:
    root = await operator_key(rig)
    _, _, org_id = await registered(rig)
    made = (await call(rig, "POST", INVITATIONS, key=root, orgId=org_id, expiresInSeconds=60)).json()["data"]
    assert (made["role"], made["orgId"], made["used"]) == ("member", org_id, False)
    listed = await call(rig, "GET", INVITATIONS, key=root)
    assert [it["id"] for it in listed.json()["data"]] == [made["id"]]
    assert made["code"] not in listed.text
    assert (await call(rig, "DELETE", f"{INVITATIONS}/{made['id']}", key=root)).status_code == 200
    assert (await call(rig, "DELETE", f"{INVITATIONS}/{made['id']}", key=root)).status_code == 404
    users = (await call(rig, "GET", "/api/operator/users?limit=1", key=root)).json()["data"]
    assert [(it["email"], it["operator"]) for it in users] == [("root@example.org", True)]
    rest = (await call(rig, "GET", f"/api/operator/users?after={users[0]['id']}", key=root)).json()["data"]
    assert [it["email"] for it in rest] == ["ada@example.org"]


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"email": "nobody"}, 400),
        ({"expiresInSeconds": 0}, 400),
        ({"expiresInSeconds": 10**9}, 400),
        ({"role": "king"}, 400),
        ({"orgId": UNKNOWN}, 404),
        ({"orgId": 7}, 400),
    ],
)
async def test_a_bad_wish_for_an_invitation_is_refused(rig: Rig, wish: dict[str, Any], status: int) -> None:
    assert (await call(rig, "POST", INVITATIONS, key=await operator_key(rig), **wish)).status_code == status


async def test_for_others_the_operators_routes_do_not_exist(rig: Rig) -> None:
    key, _, _ = await registered(rig)
    for method, path in (
        ("GET", INVITATIONS),
        ("POST", INVITATIONS),
        ("DELETE", f"{INVITATIONS}/x"),
        ("GET", "/api/operator/users"),
    ):
        assert (await call(rig, method, path, key=key)).status_code == 404
