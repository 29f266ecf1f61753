"""The whole server on MongoDB, as a process: what it keeps there, and what several servers on one database share."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pymongo import MongoClient

from bench.server import Server, call
from mcp_server.app import COLLECTIONS
from storage.mongo import MongoDatabase
from storage.mongo_query import index_hint
from tests.mcp_server.edge import ACCEPT, initialize, rpc, text_of
from tests.server_process import SMALL, Place, cli, cli_json, http, noted, places, refused, serving
from tests.waiting import PATIENCE_S
from vmm.hypervisor.process import orphans

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@pytest.fixture
def store(mongo_uri: str, mongo_name: str) -> Mapping[str, str]:
    """The variables of a server on a database of the test's own."""
    return {"CASEMATE_MONGO_URI": mongo_uri, "CASEMATE_MONGO_DB": mongo_name}


@pytest.fixture
async def place(tmp_path: Path, served: Path) -> AsyncGenerator[Place]:
    async with places(tmp_path, served) as make:
        yield make


async def register(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    answer = await http.post("/api/register", json={"name": name, "email": f"{name}@example.org"})
    assert answer.status_code == 201, answer.text
    return answer.json()["data"]


async def test_a_fresh_server_keeps_everything_in_the_database_and_nothing_in_a_file(
    place: Place, store: Mapping[str, str], mongo_uri: str, mongo_name: str
) -> None:
    data = place("a")
    async with serving(data, **store) as server, http(server) as operator:
        ready = (await operator.get("/ready")).json()
        assert ready["parts"]["store"] == "ok"
        me = (await operator.get("/api/users/me")).json()
        assert (me["email"], me["operator"]) == ("local@localhost", True)

        alice = await register(operator, "alice")
        wish = {"keyName": "second"}
        async with http(server, alice["apiKey"]["plainKey"]) as hers:
            second = (await hers.post("/api/orgs/apikeys", json=wish)).json()
            async with http(server, second["plainKey"]) as other:
                assert (await other.get("/api/users/me")).json()["email"] == "alice@example.org"
                assert (await hers.delete(f"/api/orgs/apikeys/{second['keyId']}")).status_code == 200
                assert (await other.get("/api/users/me")).status_code == 401
            names = {key["name"] for key in (await hers.get("/api/orgs/apikeys")).json()}
            assert "second" not in names
            records = await noted(hers, "key.delete")
            assert [record["decision"] for record in records] == ["allowed"]
            assert records[0]["keyId"] == alice["apiKey"]["keyId"]

    with MongoClient[dict[str, Any]](mongo_uri) as client:
        database = client[mongo_name]
        held = {spec.name: database[spec.name].estimated_document_count() for spec in COLLECTIONS}
        indexes = {spec.name: set(database[spec.name].index_information()) for spec in COLLECTIONS}
    assert held["users"] == held["organisations"] == 2
    assert held["api_keys"] == 2
    assert held["audit"] >= 5
    for spec in COLLECTIONS:
        assert {index_hint(index) for index in spec.indexes} <= indexes[spec.name]
    assert list(data.glob("casemate.db*")) == []


async def test_a_machine_is_used_within_its_quota_and_taken_over_by_the_next_start(
    place: Place, store: Mapping[str, str]
) -> None:
    data = place("a")
    async with serving(data, **store) as server:
        async with server.client() as client, http(server) as operator:
            box = json.loads(await call(client, "create_sandbox", name="box", **SMALL))
            assert "alive" in await call(
                client, "execute_command", id="box", command="echo alive; echo kept >/dev/shm/k"
            )
            org = box["orgId"]
            limited = await operator.patch(f"/api/operator/quotas/{org}", json={"sandboxes": 1})
            assert limited.json()["used"]["sandboxes"] == 1
            too_many = await client.call_tool("create_sandbox", {"name": "more", **SMALL})
            assert too_many.is_error
            assert "1" in text_of(too_many)
            over_rest = await operator.post("/api/sandboxes", json={"name": "more", **SMALL})
            assert over_rest.status_code == 403
            (seen,) = json.loads(await call(client, "list_sandboxes"))["sandboxes"]
            assert seen["id"] == box["id"]
            refusal, created = await noted(operator, "create_sandbox", least=2)
            assert (refusal["decision"], created["decision"]) == ("refused", "allowed")
            assert created["sandbox"] == box["id"]
        os.kill(server.process.pid, signal.SIGKILL)
    async with serving(data, **store) as server, server.client() as client, http(server) as operator:
        assert (await call(client, "execute_command", id=box["id"], command="cat /dev/shm/k")).startswith("kept")
        assert (await operator.get("/api/orgs/quota")).json()["own"] == {"sandboxes": 1}
        assert len(await noted(operator, "create_sandbox")) == 2
        await call(client, "delete_sandbox", id="box")
    assert orphans(data / "instances") == {}


async def test_an_index_that_was_made_otherwise_stops_the_start(
    place: Place, store: Mapping[str, str], mongo_uri: str, mongo_name: str
) -> None:
    data = place("a")
    async with MongoDatabase(mongo_uri, mongo_name):
        pass
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        keys = client[mongo_name]["api_keys"]
        keys.create_index([("colour", 1)], name="by_digest")
        line = await refused(data, **store)
        assert "Index by_digest of api_keys" in line
        assert "colour" in line
        assert keys.index_information()["by_digest"]["key"] == [("colour", 1)]
        keys.drop_index("by_digest")
    async with serving(data, **store) as server, http(server) as operator:
        assert (await operator.get("/api/users/me")).status_code == 200


async def test_two_servers_share_accounts_keys_quotas_limits_and_the_audit(
    place: Place, store: Mapping[str, str]
) -> None:
    shared = {**store, "CASEMATE_RATE_LIMIT_REQUESTS": "100", "CASEMATE_RATE_LIMIT_WINDOW_SECONDS": "86400"}
    async with (
        serving(place("a"), **shared) as first,
        serving(place("b"), **shared) as second,
        http(first) as here,
        http(second) as there,
    ):
        ids = [(await client.get("/api/users/me")).json()["id"] for client in (here, there)]
        assert ids[0] == ids[1], "one local user for both"

        statuses: list[int] = []

        async def attempt(client: httpx.AsyncClient) -> None:
            wish = {"name": "Ann", "email": "ann@example.org"}
            statuses.append((await client.post("/api/register", json=wish)).status_code)

        async with anyio.create_task_group() as tasks:
            for client in (here, there) * 4:
                tasks.start_soon(attempt, client)
        assert sorted(statuses) == [201] + [409] * 7

        bob = await register(here, "bob")
        org, key = bob["org"]["id"], bob["apiKey"]["plainKey"]
        await here.patch(f"/api/operator/quotas/{org}", json={"sandboxes": 0})
        async with http(second, key) as his:
            assert (await his.get("/api/orgs/quota")).json()["limits"]["sandboxes"] == 0
            assert (await his.post("/api/sandboxes", json={"name": "none", **SMALL})).status_code == 403
        async with http(first, key) as his:
            (refusal,) = await noted(his, "sandbox.create")
            assert refusal["decision"] == "refused"

        spent = await spend(first, key, 60)
        assert spent == 60
        async with http(second, key) as his:
            # Each look is a call itself; a second apart, they are few until the servers have told each other.
            looks = 1
            with anyio.fail_after(PATIENCE_S):
                while int((await his.get("/api/users/me")).headers["ratelimit-remaining"]) >= 100 - spent - looks:
                    looks += 1
                    await anyio.sleep(1)
        assert 20 <= looks + await spend(second, key, 60) <= 40


async def spend(server: Server, key: str, calls: int) -> int:
    async with http(server, key) as client:
        answers = [(await client.get("/api/users/me")).status_code for _ in range(calls)]
    assert set(answers) <= {200, 429}
    return answers.count(200)


async def test_a_key_revoked_at_one_server_is_refused_at_the_other_on_open_streams_too(
    place: Place, store: Mapping[str, str]
) -> None:
    async with (
        serving(place("a"), **store) as first,
        serving(place("b"), **store) as second,
        http(first) as operator,
    ):
        made = (await operator.post("/api/orgs/apikeys", json={"keyName": "short"})).json()
        async with http(second, made["plainKey"], **ACCEPT) as user:
            opened = await user.post("/api/mcp", json=initialize())
            session = {"mcp-session-id": opened.headers["mcp-session-id"]}
            await user.post("/api/mcp", json=rpc("notifications/initialized", request_id=None), headers=session)
            async with user.stream("GET", "/api/mcp", headers=session) as stream:
                assert stream.status_code == 200
                assert (await user.get("/api/users/me")).status_code == 200
                await operator.delete(f"/api/orgs/apikeys/{made['keyId']}")
                with anyio.fail_after(PATIENCE_S):
                    async for _ in stream.aiter_raw():
                        pass
            with anyio.fail_after(PATIENCE_S):
                while (refused := await user.get("/api/users/me")).status_code == 200:
                    await anyio.sleep(0.1)
            assert refused.status_code == 401


async def test_each_server_has_its_own_sandboxes_and_leaves_those_of_the_other_alone(
    place: Place, store: Mapping[str, str]
) -> None:
    a, b = place("a"), place("b")
    async with serving(b, **store) as second:
        async with serving(a, **store) as first:
            boxes: list[str] = []
            for server in (first, second):
                async with server.client() as client:
                    boxes.append(json.loads(await call(client, "create_sandbox", name="box", **SMALL))["id"])
            for server, own, foreign in ((first, *boxes), (second, *reversed(boxes))):
                async with server.client() as client, http(server) as rest:
                    (seen,) = json.loads(await call(client, "list_sandboxes"))["sandboxes"]
                    assert seen["id"] == own
                    assert (await rest.get(f"/api/sandboxes/{foreign}")).status_code == 404
                    assert (await rest.delete(f"/api/sandboxes/{foreign}")).status_code == 404
                    assert (await client.call_tool("execute_command", {"id": foreign, "command": "true"})).is_error
            os.kill(first.process.pid, signal.SIGKILL)
        async with serving(a, **store) as first:
            for server, own in ((first, boxes[0]), (second, boxes[1])):
                async with server.client() as client:
                    said = await call(client, "execute_command", id=own, command="echo alive")
                    assert said.startswith("alive")
                    await call(client, "delete_sandbox", id=own)
    assert orphans(a / "instances") == orphans(b / "instances") == {}


async def test_everything_moves_to_mongodb_and_back_with_the_machine_running(
    place: Place, store: Mapping[str, str]
) -> None:
    data = place("a")
    async with serving(data) as server:
        async with server.client() as client, http(server) as operator:
            box = json.loads(await call(client, "create_sandbox", name="box", **SMALL))["id"]
            await call(client, "execute_command", id=box, command="echo kept >/dev/shm/k")
            alice = await register(operator, "alice")
            await operator.patch(f"/api/operator/quotas/{alice['org']['id']}", json={"sandboxes": 3})
        key = alice["apiKey"]["plainKey"]
    for source, target, settings in (("sqlite", "mongodb", store), ("mongodb", "sqlite", dict[str, str]())):
        if source == "mongodb":
            for file in data.glob("casemate.db*"):
                file.unlink()
        words = ("store", "copy", "--from", source, "--to", target, "--json")
        copied = cli_json(data, *words, **store)["copied"]
        assert copied["users"] == 2
        assert copied["sandboxes"] == 1
        assert copied["audit"] >= 4
        async with serving(data, **settings) as server, server.client() as client, http(server, key) as hers:
            assert (await call(client, "execute_command", id=box, command="cat /dev/shm/k")).startswith("kept")
            (seen,) = json.loads(await call(client, "list_sandboxes"))["sandboxes"]
            assert (seen["id"], seen["status"]) == (box, "running")
            assert (await hers.get("/api/users/me")).json()["email"] == "alice@example.org"
            assert (await hers.get("/api/orgs/quota")).json()["limits"]["sandboxes"] == 3
            async with http(server) as operator:
                (created,) = await noted(operator, "create_sandbox")
                assert created["sandbox"] == box
    cli(data, "sandbox", "rm", "--all")
    assert orphans(data / "instances") == {}
