"""What an organisation may have: its members see it, the operator sets it, others learn nothing."""

from __future__ import annotations

import httpx
import pytest

from auth.key_file import read_key
from mcp_server.settings import Settings
from tests.mcp_server.edge import Edge
from tests.mcp_server.people import ALICE

pytestmark = pytest.mark.anyio

DEFAULTS = {
    "sandboxes": 50,
    "cpus": 100,
    "mem": 65536,
    "disk": 1048576,
    "snapshots": 200,
    "volumes": 100,
    "volume_disk": 1048576,
}
UNUSED = dict.fromkeys(DEFAULTS, 0)
PATH = f"/api/operator/quotas/{ALICE}"


@pytest.fixture
def operator(edge: Edge, settings: Settings) -> httpx.AsyncClient:
    """Who runs the server."""
    return edge.http(read_key(settings.key_file))


async def test_an_organisation_sees_what_it_may_have_and_what_it_has(edge: Edge, host: Edge) -> None:
    async with edge.http("alice") as alice:
        assert (await alice.get("/api/orgs/quota")).json() == {
            "orgId": ALICE,
            "limits": DEFAULTS,
            "own": {},
            "used": UNUSED,
        }
    async with host.http("alice") as alice:
        assert (await alice.post("/api/sandboxes/box/snapshots", json={})).status_code == 201
        assert (await alice.post("/api/volumes", json={"name": "data", "sizeMB": 64})).status_code == 201
        used = (await alice.get("/api/orgs/quota")).json()["used"]
    sandbox = {"sandboxes": 1, "cpus": 1, "mem": 1024, "disk": 10240}
    assert used == sandbox | {"snapshots": 1, "volumes": 1, "volume_disk": 64}


async def test_the_operator_sets_limits_one_by_one_and_takes_them_back(edge: Edge, operator: httpx.AsyncClient) -> None:
    async with operator, edge.http("alice") as alice:
        changed = await operator.patch(PATH, json={"sandboxes": 3, "mem": 0})
        assert changed.status_code == 200
        assert changed.json()["limits"] == {**DEFAULTS, "sandboxes": 3, "mem": 0}
        assert (await operator.patch(PATH, json={"cpus": 7})).json()["own"] == {"sandboxes": 3, "mem": 0, "cpus": 7}
        assert (await operator.patch(PATH, json={"sandboxes": None})).json()["own"] == {"mem": 0, "cpus": 7}
        seen = (await alice.get("/api/orgs/quota")).json()
        assert seen == (await operator.get(PATH)).json()
        assert seen["limits"] == {**DEFAULTS, "mem": 0, "cpus": 7}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"gpus": 1}, "got 'gpus'"),
        ({"sandboxes": -1}, "sandboxes must be 0 to 1099511627776, got -1"),
        ({"mem": 2**70}, "mem must be "),
        ({"cpus": "7"}, "cpus='7' is not a valid limit"),
        ({"cpus": True}, "cpus=True is not a valid limit"),
        ({"cpus": 1.5}, "cpus=1.5 is not a valid limit"),
        ({"x" * 3000: 1}, "quota must be one of "),
        ([], "The body is []"),
    ],
)
async def test_what_is_no_limit_is_named_and_nothing_changes(
    edge: Edge, operator: httpx.AsyncClient, body: object, named: str
) -> None:
    async with operator:
        refused = await operator.patch(PATH, json=body)
        assert refused.status_code == 400
        assert named in refused.json()["error"]
        assert len(refused.json()["error"]) < 300
        assert (await operator.get(PATH)).json()["own"] == {}


async def test_an_organisation_that_is_not_there_has_no_quota(operator: httpx.AsyncClient) -> None:
    async with operator:
        for org in ("f" * 24, "nonsense", "x" * 1000):
            assert (await operator.get(f"/api/operator/quotas/{org}")).status_code == 404
            assert (await operator.patch(f"/api/operator/quotas/{org}", json={"cpus": 1})).status_code == 404


async def test_to_all_but_the_operator_the_route_is_not_there(edge: Edge) -> None:
    async with edge.http("alice") as alice, edge.http() as nobody:
        for path in (PATH, "/api/operator/quotas/nonsense"):
            assert (await alice.get(path)).json()["error"] == "Not Found"
            assert (await alice.patch(path, json={"sandboxes": 10**6})).status_code == 404
            assert (await nobody.get(path)).status_code == 401
        assert (await alice.get("/api/orgs/quota")).json()["limits"] == DEFAULTS
