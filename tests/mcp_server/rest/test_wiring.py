"""REST within the whole application: credentials, request ids, body limits, and a server that stops."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.mcp_server.edge import Edge
from tests.mcp_server.host import SANDBOX, OpenHost
from tests.mcp_server.rest.conftest import BASE, Rest, rest_server, shown_until
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


def socket(edge: Edge, key: str = "", query: str = "") -> connect:
    headers = {"x-api-key": key} if key else {}
    url = f"ws{edge.url.removeprefix('http')}{BASE}/pty?{query}"
    return connect(url, additional_headers=headers, proxy=None)


async def test_a_key_opens_its_owners_sandboxes_and_no_others(host: Edge) -> None:
    async with host.http("alice") as alice, host.http("bob") as bob, host.http() as nobody:
        answer = await alice.get("/api/sandboxes/box")
        assert answer.json()["data"]["id"] == SANDBOX
        assert (await bob.get(BASE)).status_code == 404
        refused = await nobody.get(BASE)
        assert refused.status_code == 401
        assert (await nobody.get("/api/version")).status_code == 200


async def test_a_refusal_has_the_id_under_which_it_was_logged(host: Edge) -> None:
    async with host.http("alice") as alice:
        answer = await alice.get("/api/sandboxes/unknown", headers={"x-request-id": "mine"})
    assert answer.json()["requestId"] == answer.headers["x-request-id"] == "mine"


async def test_a_socket_takes_its_key_from_a_header_or_the_query(host: Edge) -> None:
    key = host.keys["alice"]
    for opening in (socket(host, key), socket(host, query=f"apiKey={key}")):
        async with opening as open_socket:
            with anyio.fail_after(PATIENCE_S):
                await shown_until(open_socket, "# ")
    for who in ("", "cm_" + "x" * 43, host.keys["bob"]):
        with pytest.raises(InvalidStatus) as refused:
            async with socket(host, who):
                pass
        body = refused.value.response.body
        assert body is not None
        assert refused.value.response.status_code == (404 if who == host.keys["bob"] else 401)
        assert json.loads(body)["error"]


async def test_an_upload_may_be_larger_than_other_bodies(host: Edge, tmp_path: Path) -> None:
    body = b"x" * (20 * 1024 * 1024)
    async with host.http("alice") as alice:
        up = await alice.post(f"{BASE}/files/upload?path={tmp_path}/big", content=body)
        assert up.status_code == 200, up.text
        assert (await alice.post(f"{BASE}/exec", content=body)).status_code == 413
    assert (tmp_path / "big").stat().st_size == len(body)


async def test_a_server_stops_within_seconds_whatever_its_clients_hold_open(open_host: OpenHost) -> None:
    async with open_host() as fleet:
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks, rest_server(fleet) as rest:
                following, typing = anyio.Event(), anyio.Event()
                tasks.start_soon(_follow, rest, following)
                tasks.start_soon(_type, rest, typing)
                await following.wait()
                await typing.wait()


async def _follow(rest: Rest, begun: anyio.Event) -> None:
    async with rest.http() as http:
        fields = {"command": "echo on; sleep 87.201"}
        async with http.stream("POST", f"{BASE}/exec-stream", json=fields) as answer:
            with pytest.raises(httpx.RemoteProtocolError):
                async for line in answer.aiter_lines():
                    if line == "data:on":
                        begun.set()


async def _type(rest: Rest, begun: anyio.Event) -> None:
    with pytest.raises(ConnectionClosed):
        async with rest.socket("pty") as open_socket:
            await shown_until(open_socket, "# ")
            begun.set()
            await shown_until(open_socket, "never shown")
