"""API keys over REST: made, listed, switched, ended, and whose they may be."""

from __future__ import annotations

from typing import Any

import pytest

from auth.roles import Scope
from tests.auth.rig import Rig
from tests.mcp_server.rest.accounts import KEYS, UNKNOWN, USERS, call, client, member_of, registered

pytestmark = pytest.mark.anyio


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
        "updatedAt": made["createdAt"],
        "isActive": True,
        "expiresAt": made["expiresAt"],
    }
    never = (await call(rig, "POST", KEYS, key=key, keyName="for ever")).json()
    assert (never["expiresIn"], never["scopes"]) == ("Never (until revoked)", ["*"])
    assert "expiresAt" not in never


@pytest.mark.parametrize(
    "fields",
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
async def test_a_bad_request_for_a_key_is_refused(rig: Rig, fields: dict[str, Any]) -> None:
    key, _, org_id = await registered(rig)
    async with client(rig, key) as opened:
        answer = await opened.post(KEYS, json=fields)
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


@pytest.mark.parametrize("fields", [{"isActive": None}, {"isActive": "yes"}, {"isActive": 1}, {"active": True}])
async def test_whether_a_key_is_active_is_a_boolean(rig: Rig, fields: dict[str, Any]) -> None:
    key, _, org_id = await registered(rig)
    (own,) = await rig.keys.list(org_id)
    assert (await call(rig, "POST", f"{KEYS}/{own.id}/activate", key=key, **fields)).status_code == 400


async def test_a_strangers_key_is_like_one_that_is_not_there(rig: Rig) -> None:
    key, _, _ = await registered(rig)
    _, _, other = await registered(rig, "eve")
    (theirs,) = await rig.keys.list(other)
    for method, tail, body in (("DELETE", "", {}), ("PATCH", "/touch", {}), ("POST", "/activate", {"isActive": False})):
        answers = [
            await call(rig, method, f"{KEYS}/{key_id}{tail}", key=key, **body) for key_id in (theirs.id, UNKNOWN)
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].json()["error"] == "API key not found"
        assert answers[0].text.replace(theirs.id, UNKNOWN) == answers[1].text
    assert (await rig.keys.list(other))[0].is_active
    assert (await call(rig, "DELETE", f"{KEYS}/..%2f..", key=key)).status_code == 404
    for odd in ("x", "%00", "a" * 5000):
        refused = await call(rig, "DELETE", f"{KEYS}/{odd}", key=key)
        assert (refused.status_code, refused.json()["error"]) == (400, "Invalid key ID format")


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
    fields = {"keyName": "for bob", "userId": bob.id}
    assert (await call(rig, "POST", KEYS, key=key, **fields)).status_code == 404
    await rig.join(bob, org_id)
    made = (await call(rig, "POST", KEYS, key=key, **fields)).json()
    me = (await call(rig, "GET", "/api/users/me", key=made["plainKey"])).json()
    assert (me["id"], me["orgId"], me["role"], me["scopes"]) == (bob.id, org_id, "member", ["read", "run"])
    for_ada = {"keyName": "for ada", "userId": user_id}
    assert (await call(rig, "POST", KEYS, key=made["plainKey"], **for_ada)).status_code == 403


async def test_a_reader_changes_nothing(rig: Rig) -> None:
    user, org_id = await rig.user("ada")
    reader = await rig.key(user, org_id, scopes=frozenset({Scope.READ}))
    one = f"{KEYS}/{reader.record.id}"
    for method, path in (("POST", KEYS), ("DELETE", one), ("PATCH", f"{one}/touch"), ("POST", USERS)):
        answer = await call(rig, method, path, key=reader.plain)
        assert answer.status_code == 403
        assert "the credential has read" in answer.json()["error"]
    assert (await call(rig, "GET", KEYS, key=reader.plain)).status_code == 200
