"""Members of an organisation over REST: taken in, raised, taken out."""

from __future__ import annotations

from typing import Any

import pytest

from auth.roles import Role
from tests.auth.rig import Rig
from tests.mcp_server.rest.accounts import KEYS, USERS, call, member_of, registered

pytestmark = pytest.mark.anyio


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
    ("method", "fields", "status"),
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
async def test_bad_requests_about_members_are_refused(
    rig: Rig, method: str, fields: dict[str, Any], status: int
) -> None:
    key, ada, _ = await registered(rig)
    path = USERS if method == "POST" else f"{USERS}/{ada}"
    assert (await call(rig, method, path, key=key, **fields)).status_code == status


async def test_a_member_manages_nobody(rig: Rig) -> None:
    _, ada, org_id = await registered(rig)
    bobs, _ = await member_of(rig, org_id)
    assert (await call(rig, "GET", USERS, key=bobs)).status_code == 200
    assert (await call(rig, "POST", USERS, key=bobs, email="ada@example.org")).status_code == 403
    assert (await call(rig, "PATCH", f"{USERS}/{ada}", key=bobs, role="member")).status_code == 403
    assert (await call(rig, "DELETE", f"{USERS}/{ada}", key=bobs)).status_code == 403
