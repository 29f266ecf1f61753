"""VoidRun's checklist for sandboxes, keys and images: what its strict clients read must have just these types."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

import httpx
import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from mcp_server.wire import sandbox_object
from tests.auth.rig import Rig
from tests.mcp_server.host import ALICE, SANDBOX, OpenHost
from tests.mcp_server.rest.accounts import KEYS, call, registered
from tests.mcp_server.rest.conftest import BASE, Rest, data_of, rest_server
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec

pytestmark = pytest.mark.anyio

ALL = "/api/sandboxes"
Text = Annotated[str, StringConstraints(min_length=1)]


class Strict(BaseModel):
    """Ints are ints, strings are strings, times are RFC 3339; what is absent is None."""

    model_config = ConfigDict(strict=True, extra="ignore")


class ClientPort(Strict):
    protocol: Text
    port: int = Field(ge=1, le=65535)


class ClientSandbox(Strict):
    """What both of VoidRun's clients read; the TypeScript one throws where a `Text` is missing or empty."""

    id: Annotated[str, StringConstraints(pattern="^[0-9a-f]{24}$")]
    name: Text
    image: Annotated[str, StringConstraints(pattern="^[a-z0-9-]+:[a-z0-9.]+$")]
    cpu: int
    mem: int
    diskMB: int  # noqa: N815 -- the name on the wire
    status: Literal["running", "snapshotted", "error", "killed", "deleted"]
    createdAt: AwareDatetime  # noqa: N815
    updatedAt: AwareDatetime  # noqa: N815
    createdBy: Text  # noqa: N815
    orgId: Text  # noqa: N815
    autoSleep: bool  # noqa: N815
    region: Text | None = None
    ports: list[ClientPort] | None = None
    publishPorts: list[int] | None = None  # noqa: N815
    labels: dict[str, str] | None = None


class ClientMeta(Strict):
    page: int
    limit: int
    total: int
    totalPages: int  # noqa: N815


class ClientKey(Strict):
    id: Text
    orgId: Text  # noqa: N815
    name: Text
    scopes: list[Text]
    createdBy: Text  # noqa: N815
    createdAt: AwareDatetime  # noqa: N815
    updatedAt: AwareDatetime  # noqa: N815
    lastUsedAt: AwareDatetime | None = None  # noqa: N815
    isActive: bool  # noqa: N815


class ClientImage(Strict):
    id: Text
    name: Text
    tag: Text
    sizeGB: int  # noqa: N815
    system: bool
    active: bool
    createdAt: AwareDatetime  # noqa: N815


def read_by_client(body: Any) -> ClientSandbox:
    """Read an object as VoidRun's clients do."""
    return ClientSandbox.model_validate_json(json.dumps(body))


async def created(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await http.post(ALL, json={"name": "sdbx-1", "image": "code", "cpu": 1, "mem": 1024, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()["data"]


async def test_1_a_create_is_answered_with_201(http: httpx.AsyncClient) -> None:
    answer = await http.post(ALL, json={"name": "sdbx-1", "image": "code", "cpu": 1, "mem": 1024, "sync": True})
    assert (answer.status_code, answer.json()["message"]) == (201, "Sandbox created")


@pytest.mark.parametrize("state", State)
async def test_2_and_7_in_every_state_a_sandbox_is_what_strict_clients_read(open_host: OpenHost, state: State) -> None:
    spec = SandboxSpec(name="box", created_by="u" * 24, ttl_s=60, region="eu", labels={"a": "b"})
    sandbox = replace(Sandbox.new(SANDBOX, ALICE, spec, now_ms=1), state=state)
    assert read_by_client(sandbox_object(sandbox)).region == "eu"


async def test_3_no_node_is_named(http: httpx.AsyncClient) -> None:
    assert "nodeId" not in await created(http)
    assert "nodeId" not in data_of(await http.get(BASE))


async def test_4_ports_are_taken_and_shown_in_both_forms(http: httpx.AsyncClient) -> None:
    objects = [{"protocol": "http", "port": 8080}, {"protocol": "tcp", "port": 5432}]
    by_object = await created(http, ports=objects)
    assert (by_object["publishPorts"], by_object["ports"]) == ([5432, 8080], list(reversed(objects)))
    by_number = await created(http, publishPorts=[8080, 443])
    assert by_number["publishPorts"] == [443, 8080]
    assert by_number["ports"] == [{"protocol": "http", "port": 443}, {"protocol": "http", "port": 8080}]
    both = await created(http, publishPorts=[80, 8080], ports=[{"protocol": "tcp", "port": 80}])
    assert both["ports"] == [{"protocol": "tcp", "port": 80}, {"protocol": "http", "port": 8080}]
    too_many = await http.post(ALL, json={"name": "a", "publishPorts": [1, 2, 3], "ports": [{"port": 4}, {"port": 5}]})
    assert (too_many.status_code, "at most 4 ports, got 5" in too_many.json()["error"]) == (400, True)
    assert "ports" not in await created(http, publishPorts=[], ports=[])
    listed = (await http.get(f"{ALL}?limit=4")).json()["data"]
    assert [read_by_client(one).publishPorts for one in listed] == [None, [80, 8080], [443, 8080], [5432, 8080]]


async def test_4_a_list_of_ports_is_replaced_kept_ones_stay_as_they_are(http: httpx.AsyncClient) -> None:
    assert (await http.post(f"{BASE}/ports", json={"port": 8000, "public": True})).status_code == 201
    changed = await http.patch(f"{BASE}/publish-ports", json={"publishPorts": [8000, 9000]})
    assert changed.json()["message"] == "Publish ports updated"
    assert data_of(changed)["publishPorts"] == [8000, 9000]
    shown = (await http.get(f"{BASE}/ports")).json()["data"]
    assert [(one["port"], one["public"]) for one in shown] == [(8000, True), (9000, False)]
    cleared = data_of(await http.patch(f"{BASE}/publish-ports", json={"publishPorts": []}))
    assert not {"publishPorts", "ports"} & set(cleared)
    for body in ({}, {"publishPorts": [80], "ports": []}, {"publish_ports": [80]}):
        assert (await http.patch(f"{BASE}/publish-ports", json=body)).status_code == 400
    assert (await http.get(f"{BASE}/ports")).json()["data"] == []


async def test_5_empty_and_null_fields_count_as_left_out(http: httpx.AsyncClient) -> None:
    optional = ("region", "envVars", "labels", "ports", "publishPorts", "autoSleep", "sync", "image", "snapshot")
    made = await created(http, orgId="", userId="", **dict.fromkeys(optional))
    assert read_by_client(made).orgId == ALICE


async def test_6_what_the_typescript_client_requires_is_never_empty(http: httpx.AsyncClient) -> None:
    made = await created(http)
    for name in ("id", "name", "cpu", "mem", "orgId", "createdAt", "createdBy", "status"):
        assert made[name], name
    # Forks and what comes from a snapshot have it, too.
    assert (await http.post(f"{BASE}/snapshots", json={"name": "before"})).status_code == 201
    forks = (await http.post(f"{BASE}/fork", json={"count": 1})).json()["data"]
    for one in (*forks, await created(http, snapshot="before")):
        read_by_client(one)


async def test_9_a_new_key_is_answered_with_200_and_listed_as_clients_read_it(rig: Rig) -> None:
    key, _, _ = await registered(rig)
    made = await call(rig, "POST", KEYS, key=key, keyName="CI")
    assert made.status_code == 200
    listed = [ClientKey.model_validate_json(json.dumps(one)) for one in (await call(rig, "GET", KEYS, key=key)).json()]
    assert [(one.name, one.scopes) for one in listed] == [("CI", ["*"]), ("first key", ["*"])]


async def test_14_public_urls_are_a_list_of_ports_with_urls(http: httpx.AsyncClient, rest: Rest) -> None:
    box = (await created(http, ports=[{"protocol": "http", "port": 8080}, {"protocol": "tcp", "port": 5432}]))["id"]
    answer = await http.get(f"{ALL}/{box}/public-urls")
    assert answer.json()["message"] == "Public URLs fetched"
    found = {one["port"]: one["url"] for one in answer.json()["data"]}
    assert set(found) == {5432, 8080}
    assert found[8080].startswith(f"http://8080-{box}.localhost:1/?casemate_token=")
    assert (await http.post(f"{ALL}/{box}/ports", json={"port": 8080, "public": True})).status_code == 201
    found = {one["port"]: one["url"] for one in (await http.get(f"{ALL}/{box}/public-urls")).json()["data"]}
    assert found[8080] == f"http://8080-{box}.localhost:1/"
    assert (await http.get(f"{BASE}/public-urls")).json()["data"] == []
    async with rest.http("reader") as reader, rest.http("bob") as bob:
        assert (await reader.get(f"{ALL}/{box}/public-urls")).status_code == 403
        assert (await bob.get(f"{ALL}/{box}/public-urls")).status_code == 404


async def test_16_a_list_says_where_it_is_in_whole_numbers(http: httpx.AsyncClient) -> None:
    await created(http, labels={"team": "red"})
    answer = (await http.get(f"{ALL}?limit=500&labels=team%3Dred")).json()
    assert ClientMeta.model_validate(answer["meta"]) == ClientMeta(page=1, limit=100, total=1, totalPages=1)
    assert [read_by_client(one).labels for one in answer["data"]] == [{"team": "red"}]


async def test_images_are_as_clients_read_them(http: httpx.AsyncClient) -> None:
    for image in (await http.get("/api/images")).json():
        ClientImage.model_validate_json(json.dumps(image))


async def test_an_unknown_field_of_a_change_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.patch(BASE, json={"autoSleep": False, "nodeId": "x"})
    assert (answer.status_code, "nodeId='x'" in answer.json()["error"]) == (400, True)
    assert data_of(await http.get(BASE))["autoSleep"] is True


async def test_a_region_survives_a_fork(open_host: OpenHost) -> None:
    async with open_host() as fleet, rest_server(fleet) as rest, rest.http() as http:
        box = (await created(http, region="eu-central-1"))["id"]
        (fork,) = (await http.post(f"{ALL}/{box}/fork", json={"count": 1})).json()["data"]
        assert fork["region"] == "eu-central-1"
        assert "publishPorts" not in fork
