"""The operator has templates built before the first sandbox needs them; nobody else may."""

from __future__ import annotations

import httpx
import pytest

from auth.key_file import read_key
from mcp_server.settings import Settings
from tests.mcp_server.edge import Edge

pytestmark = pytest.mark.anyio

PATH = "/api/operator/templates"


@pytest.fixture
def operator(edge: Edge, settings: Settings) -> httpx.AsyncClient:
    """Who runs the server."""
    return edge.http(read_key(settings.key_file))


async def test_only_the_operator_finds_the_route(edge: Edge) -> None:
    async with edge.http("alice") as alice:
        assert (await alice.post(PATH, json={})).status_code == 404


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"image": "nix"}, "image must be "),
        ({"cpu": 0}, "cpu must be "),
        ({"cpu": 9}, "cpu must be "),
        ({"mem": 16385}, "mem must be "),
        ({"mem": "much"}, "mem"),
        ({"cpu": 2**40}, "cpu"),
    ],
)
async def test_what_no_sandbox_may_have_has_no_template(
    operator: httpx.AsyncClient, body: dict[str, object], named: str
) -> None:
    async with operator:
        refused = await operator.post(PATH, json=body)
    assert refused.status_code == 400
    assert named in refused.text


async def test_a_template_that_exists_is_ready_at_once(operator: httpx.AsyncClient) -> None:
    async with operator:
        ready = await operator.post(PATH, json={})
    assert ready.status_code == 200
    assert ready.json()["data"] == {"image": "code", "cpu": 1, "mem": 1024}
