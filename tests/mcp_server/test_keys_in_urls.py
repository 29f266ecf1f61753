"""Keys and tickets in URLs: where they count, and that nobody reads them afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from mcp_server.audit.log import AuditLog
from mcp_server.audit.record import BY_TIME
from mcp_server.settings import Settings
from storage.collection import Collection, Document
from tests.mcp_server.edge import Edge
from tests.mcp_server.rest.conftest import BASE, shown_until
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio

PTY = f"{BASE}/pty"


@pytest.fixture(params=[False, True], ids=["off", "on"])
def query_keys(request: pytest.FixtureRequest) -> bool:
    on: bool = request.param
    return on


@pytest.fixture
def settings(tmp_path: Path, query_keys: bool) -> Settings:
    return Settings(data=tmp_path, query_keys=query_keys)


def socket(edge: Edge, query: str, path: str = PTY) -> connect:
    return connect(f"ws{edge.url.removeprefix('http')}{path}?{query}", proxy=None)


async def ticket(edge: Edge, who: str = "alice", **body: str) -> str:
    async with edge.http(who) as http:
        answer = await http.post("/api/tickets", json=body)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["status"], made["message"]) == ("success", "Ticket created")
    assert set(made["data"]) == {"ticket", "expiresAt", "expiresInSeconds"}
    return made["data"]["ticket"]


async def refused(edge: Edge, query: str, path: str = PTY) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught:
        async with socket(edge, query, path):
            pass
    assert caught.value.response.body is not None
    return caught.value.response.status_code, json.loads(caught.value.response.body)["error"]


async def test_13_a_key_in_the_url_of_a_request_counts_where_the_operator_says_so(host: Edge, query_keys: bool) -> None:
    key = host.keys["alice"]
    async with host.http() as http:
        for path in (BASE, "/api/users/me", "/api/orgs/apikeys"):
            answer = await http.get(path, params={"apiKey": key})
            assert answer.status_code == (200 if query_keys else 401), path
            assert key not in answer.text
        wrong = await http.get(BASE, params={"apiKey": "cm_" + "x" * 43})
        assert wrong.status_code == 401
        if not query_keys:
            assert "CASEMATE_QUERY_KEYS=true" in wrong.json()["details"]
        twice = await http.get(BASE, params={"apiKey": key}, headers={"x-api-key": key})
        assert twice.status_code == (400 if query_keys else 200)


async def test_13_a_socket_takes_a_key_from_its_url_always(host: Edge) -> None:
    async with socket(host, f"apiKey={host.keys['alice']}") as open_socket:
        with anyio.fail_after(PATIENCE_S):
            await shown_until(open_socket, "# ")


async def test_13_a_watch_takes_a_key_or_a_ticket_from_its_url(host: Edge, tmp_path: Path) -> None:
    async with host.http("alice") as http:
        answer = await http.post(f"{BASE}/files/watch", json={"path": str(tmp_path)})
    path = f"{BASE}/files/watch/{answer.json()['data']['sessionId']}/stream"
    made = await ticket(host, path=path)
    for query in (f"apiKey={host.keys['alice']}", f"ticket={made}"):
        async with socket(host, query, path) as open_socket:
            (tmp_path / query[:6]).touch()
            with anyio.fail_after(PATIENCE_S):
                while json.loads(await open_socket.recv())["path"] != f"{tmp_path}/{query[:6]}":
                    pass
    assert await refused(host, f"ticket={made}", path) == (401, "invalid ticket")


async def test_13_neither_keys_nor_tickets_in_urls_are_written_anywhere(
    host: Edge, audit_log: AuditLog, records: Collection, capfd: pytest.CaptureFixture[str]
) -> None:
    key, made = host.keys["alice"], await ticket(host)
    async with host.http() as http:
        for path in (f"{BASE}/files?path=/nowhere&", "/api/nothing?", f"{BASE}/ports/8000?", "/api/mcp?"):
            await http.get(f"{path}apiKey={key}")
            await http.get(f"{path}ticket={made}")
            await http.get(f"{path}apiKey={key}", headers={"host": "elsewhere"})
    async with socket(host, f"ticket={made}"):
        pass
    found: list[Document] = []

    async def socket_recorded() -> bool:
        found[:] = await records.find(BY_TIME)
        return any(record["action"] == "terminal.shell" for record in found)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(audit_log.run)
        await until(socket_recorded)
        tasks.cancel_scope.cancel()
    written = capfd.readouterr()
    said = f"{written.out}{written.err}{found}"
    assert "/api/nothing" in written.out + written.err
    assert "/api/nothing" in f"{found}"
    assert key not in said
    assert made not in said


async def test_a_ticket_opens_one_socket_of_its_path_and_nothing_else(host: Edge) -> None:
    made = await ticket(host, path=PTY)
    async with host.http() as http:
        assert (await http.get(BASE, params={"ticket": made})).status_code == 401
    async with socket(host, f"ticket={made}&cols=80") as open_socket:
        with anyio.fail_after(PATIENCE_S):
            await shown_until(open_socket, "# ")
    assert await refused(host, f"ticket={made}") == (401, "invalid ticket")
    elsewhere = await ticket(host, path=f"{BASE}/forward/80")
    assert await refused(host, f"ticket={elsewhere}") == (401, "invalid ticket")


async def test_a_ticket_opens_only_what_its_owner_may(host: Edge) -> None:
    status, error = await refused(host, f"ticket={await ticket(host, 'bob')}")
    assert (status, error) == (404, "Sandbox not found")


async def test_a_request_for_a_ticket_needs_a_credential_and_a_path_of_the_api(host: Edge) -> None:
    async with host.http() as nobody, host.http("alice") as alice:
        assert (await nobody.post("/api/tickets")).status_code == 401
        for body in ({"path": "/elsewhere"}, {"path": f"{PTY}?cols=80"}, {"path": 7}):
            answer = await alice.post("/api/tickets", json=body)
            assert (answer.status_code, "path" in answer.json()["error"]) == (400, True)
