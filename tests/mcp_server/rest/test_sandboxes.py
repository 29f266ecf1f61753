"""Sandboxes over REST: VoidRun's shapes."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from tests.auth.clocks import Clocks
from tests.mcp_server.host import ALICE, SANDBOX, OpenHost
from tests.mcp_server.rest.conftest import BASE, Rest, data_of, rest_server
from vmm.lifecycle.unusable import LOST

pytestmark = pytest.mark.anyio

ALL = "/api/sandboxes"


async def created(http: httpx.AsyncClient, **fields: object) -> dict[str, Any]:
    answer = await http.post(ALL, json=fields)
    assert answer.status_code == 201, answer.text
    assert answer.json()["message"] == "Sandbox created"
    return answer.json()["data"]


async def test_a_new_sandbox_has_everything_that_clients_need(http: httpx.AsyncClient) -> None:
    made = await created(
        http,
        name=" sdbx-1 ",
        image="code",
        cpu=2,
        mem=2048,
        orgId="",
        userId="",
        sync=True,
        envVars={"SECRET": "x"},
        autoSleep=False,
        ttl=3600,
        idle=60,
        region="eu",
        labels={"team": "red"},
        publishPorts=[],
        ports=None,
    )
    assert re.fullmatch(r"[0-9a-f]{24}", made["id"])
    assert made | {"id": "", "createdAt": "", "updatedAt": "", "expiresAt": ""} == {
        "id": "",
        "name": "sdbx-1",
        "image": "code:latest",
        "cpu": 2,
        "mem": 2048,
        "diskMB": 10240,
        "status": "running",
        "memory": "mapped",
        "autoSleep": False,
        "idleSeconds": 60,
        "ttlSeconds": 3600,
        "expiresAt": "",
        "createdAt": "",
        "updatedAt": "",
        "createdBy": "user-alice",
        "orgId": ALICE,
        "labels": {"team": "red"},
        "region": "eu",
    }


async def test_what_is_left_out_or_null_is_the_servers_default(http: httpx.AsyncClient) -> None:
    for fields in ({}, {"image": None, "cpu": None, "mem": None, "envVars": None, "labels": None}, {"image": ""}):
        made = await created(http, name="plain", **fields)
        assert (made["image"], made["cpu"], made["mem"], made["autoSleep"]) == ("code:latest", 1, 1024, True)


async def test_the_names_of_voidruns_images_mean_code_and_a_tag_may_be_latest(http: httpx.AsyncClient) -> None:
    for image in ("code", "code:latest", "max", "docker", "docker-lite", "debian", "debian:latest"):
        assert (await created(http, name="one", image=image))["image"] == "code:latest"
    assert (await created(http, name="tagged", image="minimal:latest"))["image"] == "minimal:latest"
    for image in ("code:1.0.42", "debian:12", "windows"):
        refused = await http.post(ALL, json={"name": "a", "image": image})
        assert refused.status_code == 400
        assert f"got '{image}'" in refused.json()["error"]


async def test_the_callers_organisation_owns_what_it_makes_whatever_it_sends(rest: Rest) -> None:
    async with rest.http("bob") as bob, rest.http("alice") as alice:
        made = await created(bob, name="mine", orgId=ALICE, userId="user-alice")
        assert (made["orgId"], made["createdBy"]) == ("b" * 24, "user-bob")
        assert (await alice.get(f"{ALL}/{made['id']}")).status_code == 404


async def test_a_list_comes_by_pages_newest_first(http: httpx.AsyncClient) -> None:
    for number in range(4):
        await created(http, name=f"box-{number}", labels={"odd": str(number % 2), "all": "x"})

    async def names(query: str) -> tuple[list[str], dict[str, int]]:
        body = (await http.get(f"{ALL}?{query}")).json()
        assert body["message"] == "Sandboxes fetched"
        return [item["name"] for item in body["data"]], body["meta"]

    assert await names("page=1&limit=2") == (
        ["box-3", "box-2"],
        {"page": 1, "limit": 2, "total": 5, "totalPages": 3},
    )
    assert (await names("page=3&limit=2"))[0] == ["box"]
    assert (await names("page=9&limit=2"))[0] == []
    assert (await names("labels=odd%3D1%2Call%3Dx"))[0] == ["box-3", "box-1"]
    for query in ("", "page=0&limit=0", "page=x&limit=-1", "page=1.5&limit=" + "9" * 5000, "page=&limit="):
        found, meta = await names(query)
        assert len(found) == 5
        assert (meta["page"], meta["limit"]) == (1, 20)
    assert (await names("limit=5000"))[1]["limit"] == 100
    bad = await http.get(f"{ALL}?labels=nonsense")
    assert bad.status_code == 400
    assert bad.json()["error"] == 'invalid label selector segment "nonsense": expected "key=value"'


async def test_an_organisation_without_sandboxes_has_an_empty_list(rest: Rest) -> None:
    async with rest.http("bob") as bob:
        body = (await bob.get(ALL)).json()
    assert (body["data"], body["meta"]["total"], body["meta"]["totalPages"]) == ([], 0, 0)


async def test_a_sandbox_is_shown_changed_and_deleted(http: httpx.AsyncClient) -> None:
    shown = await http.get(f"{ALL}/box")
    assert shown.json()["message"] == "Sandbox details fetched"
    assert data_of(shown)["id"] == SANDBOX
    changed = await http.patch(BASE, json={"autoSleep": False})
    assert changed.json()["message"] == "Sandbox updated"
    assert data_of(changed)["autoSleep"] is False
    renamed = data_of(await http.patch(BASE, json={"name": "cart", "labels": {"a": "b"}}))
    assert (renamed["name"], renamed["labels"], renamed["autoSleep"]) == ("cart", {"a": "b"}, False)
    deleted = await http.delete(f"{ALL}/cart")
    assert (deleted.status_code, deleted.json()) == (200, {"status": "success", "message": "Sandbox deleted"})
    gone = await http.delete(f"{ALL}/cart")
    assert (gone.status_code, gone.json()["error"]) == (404, "Sandbox not found")
    assert "There is no sandbox 'cart'" in gone.json()["details"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "Nothing to change"),
        ({"autoSleep": None}, "Nothing to change"),
        ({"autoSleep": "yes"}, "autoSleep='yes'"),
        ({"cpu": 4}, "cpu=4"),
        ({"autoSleep": True, "extra": 1}, "extra=1"),
        ({"auto_sleep": True}, "auto_sleep=True"),
        ({"name": "Not A Name"}, "got 'Not A Name'"),
        ({"ttl": -1}, "ttl must be 0 to 2592000 seconds (30 days), got -1"),
        ({"ttl": 365 * 86400}, "got 31536000"),
        ({"ttl": "60"}, "ttl='60'"),
        ({"ttl": 10**400}, "ttl="),
        ({"idle": -1}, "idle must be 0 to 2592000 seconds (30 days), got -1"),
        ({"idle": 1.5}, "idle=1.5"),
        ({"labels": {"BAD": "x"}}, "got 'BAD'"),
    ],
)
async def test_a_change_that_cannot_be_is_refused(http: httpx.AsyncClient, body: dict[str, object], says: str) -> None:
    answer = await http.patch(BASE, json=body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]


async def test_a_life_is_limited_renewed_kept_asleep_and_made_endless(open_host: OpenHost) -> None:
    clocks = Clocks(ms=1000)
    async with open_host(clock=clocks.epoch) as fleet, rest_server(fleet) as rest, rest.http() as http:
        limited = data_of(await http.patch(BASE, json={"ttl": 90, "idle": 0}))
        assert (limited["ttlSeconds"], limited["idleSeconds"]) == (90, 0)
        assert limited["expiresAt"] == "1970-01-01T00:01:31.000Z"
        clocks.advance(1)
        assert (await http.post(f"{BASE}/sleep")).json() == {"status": "success", "message": "Sandbox snapshotted"}
        asleep = data_of(await http.get(BASE))
        assert (asleep["status"], asleep["leftSeconds"]) == ("snapshotted", 89)
        assert asleep["asleepSince"] == "1970-01-01T00:00:02.000Z"
        assert "expiresAt" not in asleep
        clocks.advance(10)
        assert (await http.post(f"{BASE}/wake")).json() == {"status": "success", "message": "Sandbox restored"}
        assert data_of(await http.get(BASE))["expiresAt"] == "1970-01-01T00:01:41.000Z"
        endless = data_of(await http.patch(BASE, json={"ttl": 0}))
        assert not {"ttlSeconds", "expiresAt", "leftSeconds", "asleepSince"} & set(endless)


async def test_a_sandbox_that_was_killed_is_started_and_says_what_is_lost(open_host: OpenHost) -> None:
    async with open_host() as fleet, rest_server(fleet) as rest, rest.http() as http:
        assert (await http.post(f"{BASE}/start")).json() == {"status": "success", "message": "Sandbox started"}
        await fleet.kill(ALICE, "box")
        assert data_of(await http.get(BASE))["status"] == "killed"
        for what, word in (("sleep", "killed"), ("wake", "lost")):
            refused = await http.post(f"{BASE}/{what}")
            assert (refused.status_code, word in refused.json()["error"]) == (409, True)
        limited = await http.patch(BASE, json={"ttl": 60})
        assert (limited.status_code, "killed" in limited.json()["error"]) == (409, True)
        assert (await http.post(f"{BASE}/start")).status_code == 200
        started = data_of(await http.get(BASE))
        assert started["status"] == "running"
        assert started["reason"].startswith("started from its disk")
        assert started["reason"].endswith(LOST)


async def test_what_earlier_servers_called_it_sleeps_and_wakes_a_sandbox(open_host: OpenHost) -> None:
    async with open_host() as fleet, rest_server(fleet) as rest, rest.http() as http:
        for sleep, wake in (("stop", "start"), ("pause", "resume"), ("snapshot", "restore")):
            answer = await http.post(f"{BASE}/{sleep}")
            assert answer.json() == {"status": "success", "message": "Sandbox snapshotted"}
            assert data_of(await http.get(BASE))["status"] == "snapshotted"
            assert (await http.post(f"{BASE}/{wake}")).status_code == 200
            assert data_of(await http.get(BASE))["status"] == "running"
        half = await http.post(f"{BASE}/restore", json={"snapshotId": "x"})
        assert (half.status_code, half.json()["error"]) == (400, "snapshot is required")


async def test_a_sandbox_tells_what_it_uses(http: httpx.AsyncClient) -> None:
    seen = (await http.get(f"{BASE}/metrics")).json()
    assert 0 < seen["memoryAvailable"] < seen["memoryTotal"]
    assert 0 < seen["diskFree"] < seen["diskTotal"]
    assert seen["processes"] > 0


async def test_images_are_listed_and_found(http: httpx.AsyncClient) -> None:
    code, minimal = (await http.get("/api/images")).json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", code["createdAt"])
    assert code | {"id": "", "createdAt": ""} == {
        "id": "",
        "name": "code",
        "tag": "latest",
        "sizeGB": 10,
        "system": True,
        "active": True,
        "orgId": "",
        "createdBy": "",
        "createdAt": "",
    }
    assert re.fullmatch(r"[0-9a-f]{24}", code["id"])
    assert (await http.get(f"/api/images/{minimal['id']}")).json() == minimal
    assert (await http.get("/api/images/name/minimal")).json() == minimal
    assert (await http.get("/api/images/name/debian")).json() == code
    missing = await http.get("/api/images/name/windows")
    assert (missing.status_code, missing.json()["error"]) == (404, "Image not found")


async def test_the_version_needs_no_credential(rest: Rest) -> None:
    async with rest.http("") as nobody:
        assert (await nobody.get("/api/version")).json() == {"version": "1.2.3", "commit": "", "buildTime": ""}
        assert (await nobody.get(ALL)).status_code == 401
