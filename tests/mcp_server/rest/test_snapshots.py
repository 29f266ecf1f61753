"""Snapshots and forks over REST, of a sandbox that is this host: shapes, pages, names, refusals."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from tests.mcp_server.host import ALICE, SANDBOX
from tests.mcp_server.rest.conftest import BASE, Rest, data_of
from tests.vmm.hypervisor.host_driver import HostDriver

pytestmark = pytest.mark.anyio

ALL = "/api/snapshots"


async def taken(http: httpx.AsyncClient, **fields: object) -> dict[str, Any]:
    answer = await http.post(f"{BASE}/snapshots", json=fields)
    assert answer.status_code == 201, answer.text
    assert answer.json()["message"] == "Snapshot created"
    return answer.json()["data"]


async def test_a_snapshot_has_everything_that_tells_it_from_others(http: httpx.AsyncClient) -> None:
    first = await taken(http, name=" before ", labels={"team": "red"})
    assert re.fullmatch(r"[0-9a-f]{24}", first["id"])
    assert first["sizeBytes"] > 0
    assert first == {
        "id": first["id"],
        "name": "before",
        "sandboxId": SANDBOX,
        "sandboxName": "box",
        "image": "code:latest",
        "cpu": 1,
        "mem": 1024,
        "diskMB": 10240,
        "sizeBytes": first["sizeBytes"],
        "hypervisor": HostDriver.fingerprint,
        "createdAt": "1970-01-01T00:00:05.000Z",
        "createdBy": "user-alice",
        "orgId": ALICE,
        "labels": {"team": "red"},
    }
    assert "parentId" not in await taken(http)
    await http.post(f"{BASE}/restore", json={"snapshot": "before"})
    assert (await taken(http))["parentId"] == first["id"]


async def test_snapshots_are_listed_by_pages_of_all_sandboxes_or_of_one(http: httpx.AsyncClient) -> None:
    made = await http.post("/api/sandboxes", json={"name": "other"})
    for number in range(3):
        await taken(http, name=f"s-{number}")
    assert (await http.post("/api/sandboxes/other/snapshots", json={"name": "o-0"})).status_code == 201

    async def names(path: str) -> tuple[list[str], dict[str, int]]:
        body = (await http.get(path)).json()
        assert body["message"] == "Snapshots fetched"
        return [item["name"] for item in body["data"]], body["meta"]

    assert (await names(ALL))[0] == ["o-0", "s-2", "s-1", "s-0"]
    assert (await names(f"{BASE}/snapshots"))[0] == ["s-2", "s-1", "s-0"]
    assert (await names(f"/api/sandboxes/{made.json()['data']['id']}/snapshots"))[0] == ["o-0"]
    assert await names(f"{ALL}?limit=3&page=2") == (["s-0"], {"page": 2, "limit": 3, "total": 4, "totalPages": 2})
    assert (await names(f"{ALL}?limit=0&page=x"))[1]["limit"] == 20


async def test_a_snapshot_is_found_by_name_id_or_its_beginning_renamed_and_deleted(http: httpx.AsyncClient) -> None:
    kept = await taken(http, name="kept")
    for ref in ("kept", kept["id"], kept["id"][:23]):
        assert data_of(await http.get(f"{ALL}/{ref}")) == kept
    renamed = await http.patch(f"{ALL}/kept", json={"name": "renamed"})
    assert (renamed.json()["message"], data_of(renamed)["name"]) == ("Snapshot updated", "renamed")
    deleted = await http.delete(f"{ALL}/renamed")
    assert (deleted.status_code, deleted.json()) == (200, {"status": "success", "message": "Snapshot deleted"})
    gone = await http.get(f"{ALL}/{kept['id']}")
    assert (gone.status_code, gone.json()["error"]) == (404, f"There is no snapshot '{kept['id']}'")


async def test_what_fits_two_or_has_children_is_a_conflict_that_names_them(http: httpx.AsyncClient) -> None:
    first = await taken(http, name="twin")
    await http.post(f"{BASE}/restore", json={"snapshot": "twin"})
    second = await taken(http, name="twin")
    for method, path, body in (
        ("GET", f"{ALL}/twin", None),
        ("DELETE", f"{ALL}/{first['id'][:1]}", None),
        ("POST", f"{BASE}/restore", {"snapshot": "twin"}),
        ("POST", "/api/sandboxes", {"name": "new", "snapshot": "twin"}),
    ):
        refused = await http.request(method, path, json=body)
        assert refused.status_code == 409, (path, refused.text)
        assert all(one["id"] in refused.json()["error"] for one in (first, second))
    parent = await http.delete(f"{ALL}/{first['id']}")
    assert (parent.status_code, "twin" in parent.json()["error"]) == (409, True)
    assert (await http.delete(f"{ALL}/{second['id']}")).status_code == 200


async def test_a_sandbox_is_put_back_and_others_are_made_of_a_snapshot(http: httpx.AsyncClient) -> None:
    kept = await taken(http, name="kept")
    await taken(http, name="later")
    back = await http.post(f"{BASE}/restore", json={"snapshot": "kept"})
    assert back.json()["message"] == "Sandbox restored to the snapshot"
    assert (data_of(back)["id"], data_of(back)["snapshot"]) == (SANDBOX, kept["id"])
    made = await http.post("/api/sandboxes", json={"name": "new", "cpu": 1, "mem": 1024, "snapshot": "kept"})
    assert (made.status_code, made.json()["data"]["snapshot"]) == (201, kept["id"])


@pytest.mark.parametrize("room", [4])
async def test_each_child_of_a_fork_has_a_result_of_its_own(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/fork", json={"count": 4})
    assert (answer.status_code, answer.json()["message"]) == (201, "Sandbox forked")
    *made, failed = answer.json()["data"]
    assert [child["name"] for child in made] == ["box-1", "box-2", "box-3"]
    assert {child["createdBy"] for child in made} == {"user-alice"}
    assert set(failed) == {"error", "hint"}
    assert "4096 of" in failed["error"]
    none = await http.post(f"{BASE}/fork", json={})
    assert (none.status_code, none.json()["error"], none.json()["details"]) == (529, failed["error"], failed["hint"])


async def test_a_sleeping_sandbox_is_not_forked(http: httpx.AsyncClient) -> None:
    await http.post(f"{BASE}/sleep")
    assert (await http.post(f"{BASE}/fork", json={"count": 1})).status_code == 409


@pytest.mark.parametrize(
    ("body", "says"),
    [({}, "name is required"), ({"name": "Bad Name"}, "got 'Bad Name'"), ({"name": "a", "size": 1}, "size=1")],
)
async def test_a_name_that_cannot_be_is_refused(http: httpx.AsyncClient, body: dict[str, object], says: str) -> None:
    await taken(http, name="kept")
    answer = await http.patch(f"{ALL}/kept", json=body)
    assert (answer.status_code, says in answer.json()["error"]) == (400, True), answer.text


async def test_snapshots_of_somebody_else_are_the_same_as_none(rest: Rest) -> None:
    async with rest.http("alice") as alice, rest.http("bob") as bob, rest.http("reader") as reader:
        kept = await taken(alice, name="kept")
        assert (await bob.get(ALL)).json()["data"] == []
        unknown = "f" * 24
        for method, body in (("GET", None), ("PATCH", {"name": "mine"}), ("DELETE", None)):
            foreign, missing = [await bob.request(method, f"{ALL}/{ref}", json=body) for ref in (kept["id"], unknown)]
            assert foreign.status_code == missing.status_code == 404
            assert foreign.text.replace(kept["id"], unknown) == missing.text
        made = await bob.post("/api/sandboxes", json={"name": "mine", "snapshot": kept["id"]})
        assert made.status_code == 404
        assert (await reader.get(f"{ALL}/kept")).status_code == 200
        assert (await reader.delete(f"{ALL}/kept")).status_code == 403
        assert (await reader.patch(f"{ALL}/kept", json={"name": "mine"})).status_code == 403


async def test_each_call_has_a_name_for_audit_and_metrics(rest: Rest) -> None:
    async with rest.http() as http:
        await taken(http, name="kept")
        for method, path, body in (
            ("GET", ALL, None),
            ("GET", f"{ALL}/kept", None),
            ("PATCH", f"{ALL}/kept", {"name": "kept"}),
            ("POST", f"{BASE}/fork", {}),
            ("POST", f"{BASE}/restore", {"snapshot": "kept"}),
            ("DELETE", f"{ALL}/kept", None),
            ("POST", f"{BASE}/sleep", None),
            ("POST", f"{BASE}/wake", None),
            ("POST", f"{BASE}/start", None),
            ("POST", f"{BASE}/restart", None),
        ):
            assert (await http.request(method, path, json=body)).is_success
    assert [state["action"] for state in rest.states] == [
        *("snapshot.create", "snapshot.list", "snapshot.get", "snapshot.rename", "sandbox.fork", "snapshot.restore"),
        *("snapshot.delete", "sandbox.sleep", "sandbox.wake", "sandbox.start", "sandbox.restart"),
    ]
