"""The operator's routes over REST: invitations and users, which for others do not exist."""

from __future__ import annotations

from typing import Any

import pytest

from tests.auth.rig import Rig
from tests.mcp_server.rest.accounts import INVITATIONS, UNKNOWN, call, operator_key, registered

pytestmark = pytest.mark.anyio


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
    ("fields", "status"),
    [
        ({"email": "nobody"}, 400),
        ({"expiresInSeconds": 0}, 400),
        ({"expiresInSeconds": 10**9}, 400),
        ({"role": "king"}, 400),
        ({"orgId": UNKNOWN}, 404),
        ({"orgId": 7}, 400),
    ],
)
async def test_a_bad_request_for_an_invitation_is_refused(rig: Rig, fields: dict[str, Any], status: int) -> None:
    assert (await call(rig, "POST", INVITATIONS, key=await operator_key(rig), **fields)).status_code == status


async def test_for_others_the_operators_routes_do_not_exist(rig: Rig) -> None:
    key, _, _ = await registered(rig)
    for method, path in (
        ("GET", INVITATIONS),
        ("POST", INVITATIONS),
        ("DELETE", f"{INVITATIONS}/x"),
        ("GET", "/api/operator/users"),
    ):
        assert (await call(rig, method, path, key=key)).status_code == 404
