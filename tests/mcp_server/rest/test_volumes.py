"""Volumes over REST. What needs a real machine is in tests/vmm/volumes."""

from __future__ import annotations

import pytest

from tests.mcp_server.host import SANDBOX
from tests.mcp_server.rest.conftest import Rest

pytestmark = pytest.mark.anyio

BOX = f"/api/sandboxes/{SANDBOX}/volumes"


async def test_a_volume_is_created_listed_copied_and_deleted(rest: Rest) -> None:
    async with rest.http("alice") as alice:
        made = await alice.post("/api/volumes", json={"name": "data", "sizeMB": 64})
        assert made.status_code == 201
        volume = made.json()["data"]
        assert (volume["name"], volume["sizeMB"], volume["state"], volume["attachments"]) == ("data", 64, "ready", [])
        copy = (await alice.post("/api/volumes/data/snapshot", json={})).json()["data"]
        assert (copy["name"], copy["sourceId"], copy["sizeMB"]) == ("data-1", volume["id"], 64)
        named = (await alice.post(f"/api/volumes/{volume['id']}/snapshot", json={"name": "kept"})).json()["data"]
        listed = (await alice.get("/api/volumes", params={"limit": "2"})).json()
        assert [one["name"] for one in listed["data"]] == ["data", "data-1"]
        assert listed["meta"]["total"] == 3
        assert (await alice.get("/api/volumes/kept")).json()["data"] == named
        for name in ("data", "data-1", "kept"):
            assert (await alice.delete(f"/api/volumes/{name}")).status_code == 200
        assert (await alice.get("/api/volumes/data")).status_code == 404
        assert (await alice.get(BOX)).json()["data"] == []


async def test_bad_values_of_a_volume_are_named(rest: Rest) -> None:
    async with rest.http("alice") as alice:
        for body, said in (
            ({"name": "Data"}, "name must be a DNS label such as my-data, got 'Data'"),
            ({"name": "a/../b"}, "name must be a DNS label"),
            ({"name": "a" * 64}, "name must be a DNS label"),
            ({"name": "data", "sizeMB": 63}, "size must be 64 to 16384 MiB, got 63"),
            ({"name": "data", "sizeMB": 16385}, "size must be 64 to 16384 MiB, got 16385"),
            ({"name": "data", "size": 64}, "size"),
        ):
            refused = await alice.post("/api/volumes", json=body)
            assert refused.status_code == 400, body
            assert said in refused.text
        await alice.post("/api/volumes", json={"name": "data", "sizeMB": 64})
        again = await alice.post("/api/volumes", json={"name": "data", "sizeMB": 64})
        assert again.status_code == 409
        assert "already a volume data" in again.text
        for path in ("data", "/", "/proc/1", "/data/../.."):
            refused = await alice.post(BOX, json={"name": "data", "path": path})
            assert refused.status_code == 400, path
            assert "path must be" in refused.text
        assert (await alice.post(BOX, json={"name": "none", "path": "/data"})).status_code == 404
        assert (await alice.delete(f"{BOX}/data")).status_code == 409
        twice = [{"name": "data", "path": "/a"}, {"name": "data", "path": "/b"}]
        refused = await alice.post("/api/sandboxes", json={"name": "new", "image": "code", "volumes": twice})
        assert refused.status_code == 409
        assert "got 'data' twice" in refused.text
        assert (await alice.get("/api/volumes/data")).json()["data"]["attachments"] == []
        await alice.delete("/api/volumes/data")


async def test_a_reader_may_look_at_volumes_and_nobody_else_sees_them(rest: Rest) -> None:
    async with rest.http("alice") as alice, rest.http("reader") as reader, rest.http("bob") as bob:
        await alice.post("/api/volumes", json={"name": "data", "sizeMB": 64})
        assert (await reader.get("/api/volumes/data")).status_code == 200
        assert (await reader.post("/api/volumes", json={"name": "more"})).status_code == 403
        assert (await reader.delete("/api/volumes/data")).status_code == 403
        assert (await reader.post(BOX, json={"name": "data", "path": "/data"})).status_code == 403
        assert (await bob.get("/api/volumes")).json()["data"] == []
        assert (await bob.delete("/api/volumes/data")).status_code == 404
        await alice.delete("/api/volumes/data")


async def test_a_machine_that_cannot_take_the_disk_leaves_the_volume_free(rest: Rest) -> None:
    async with rest.http("alice") as alice:
        await alice.post("/api/volumes", json={"name": "data", "sizeMB": 64})
        refused = await alice.post(BOX, json={"name": "data", "path": "/data"})
        assert refused.status_code == 503
        assert (await alice.get("/api/volumes/data")).json()["data"]["attachments"] == []
        assert (await alice.delete("/api/volumes/data")).status_code == 200
