"""Published ports over REST, and raw TCP through a WebSocket."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.mcp_server.host import SANDBOX
from tests.mcp_server.rest.conftest import BASE, Rest
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

PORTS = "/api/sandboxes/box/ports"


@pytest.fixture
async def counting() -> AsyncGenerator[int]:
    """The port of a server that says, at the end of what it was sent, how much that was."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def serve(client: SocketStream) -> None:
        async with client:
            await client.send(b"ready ")
            size = 0
            async for data in client:
                size += len(data)
            await client.send(b"%d" % size)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def test_a_port_is_published_listed_and_revoked(http: httpx.AsyncClient) -> None:
    assert (await http.get(PORTS)).json()["data"] == []
    made = (await http.post(PORTS, json={"port": 8000, "expires": 3600})).json()["data"]
    url = f"http://8000-{SANDBOX}.localhost:1/"
    assert (made["port"], made["public"]) == (8000, False)
    assert made["url"].startswith(f"{url}?casemate_token=")
    assert made["path"].startswith(f"{BASE}/ports/8000/?casemate_token=")
    assert made["expiresAt"].endswith("Z")
    public = (await http.post(PORTS, json={"port": 443, "public": True, "expires": 60})).json()["data"]
    assert (public["url"], public["public"]) == (f"http://443-{SANDBOX}.localhost:1/", True)
    assert (await http.get(PORTS)).json()["data"] == [
        public,
        {"port": 8000, "url": url, "path": f"{BASE}/ports/8000/", "public": False},
    ]
    assert (await http.delete(f"{PORTS}/443")).status_code == 200
    assert [one["port"] for one in (await http.get(PORTS)).json()["data"]] == [8000]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "port is required"),
        ({"port": 0}, "port must be from 1 to 65535, got 0"),
        ({"port": 65536}, "port must be from 1 to 65535, got 65536"),
        ({"port": 2**40}, "port=1099511627776"),
        ({"port": "80"}, "port='80'"),
        ({"port": 80, "expires": 59}, "expires must be from 60 s to 30 days, got 59 s"),
        ({"port": 80, "expires": 2_592_001}, "expires must be from 60 s to 30 days, got 2592001 s"),
        ({"port": 80, "public": "yes"}, "public='yes'"),
    ],
)
async def test_bad_values_are_refused(http: httpx.AsyncClient, fields: dict[str, object], reason: str) -> None:
    answer = await http.post(PORTS, json=fields)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    ("port", "status"), [("80", 404), ("0", 400), ("65536", 400), ("x", 400), ("9" * 30, 400), ("%C2%B2", 400)]
)
async def test_only_a_published_port_can_be_revoked(http: httpx.AsyncClient, port: str, status: int) -> None:
    assert (await http.delete(f"{PORTS}/{port}")).status_code == status


async def test_a_sandbox_has_only_so_many_published_ports(http: httpx.AsyncClient) -> None:
    for port in range(1, 17):
        assert (await http.post(PORTS, json={"port": port})).status_code == 201
    answer = await http.post(PORTS, json={"port": 17})
    assert answer.status_code == 403
    assert "has published 16 ports" in answer.json()["error"]
    assert (await http.post(PORTS, json={"port": 1, "public": True})).status_code == 201


async def test_others_see_and_change_nothing(rest: Rest) -> None:
    async with rest.http("bob") as bob, rest.http("reader") as reader:
        assert (await bob.get(PORTS)).status_code == 404
        assert (await bob.post(PORTS, json={"port": 80})).status_code == 404
        assert (await reader.get(PORTS)).status_code == 200
        assert (await reader.post(PORTS, json={"port": 80})).status_code == 403
        assert (await reader.delete(f"{PORTS}/80")).status_code == 403


async def test_a_port_dies_with_its_sandbox(http: httpx.AsyncClient) -> None:
    assert (await http.post(PORTS, json={"port": 80})).status_code == 201
    assert (await http.delete("/api/sandboxes/box")).status_code == 200
    assert (await http.get(PORTS)).status_code == 404


async def test_raw_bytes_pass_both_ways_and_an_empty_message_is_an_end(rest: Rest, counting: int) -> None:
    async with rest.socket(f"forward/{counting}") as socket:
        with anyio.fail_after(PATIENCE_S):
            assert await socket.recv() == b"ready "
            await socket.send(b"\x00" * 1_000_000)
            await socket.send(b"x")
            await socket.send(b"")
            assert await socket.recv() == b"1000001"
            assert await socket.recv() == b""


async def test_a_broken_connection_closes_the_socket(rest: Rest) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:

        async def hang_up(client: SocketStream) -> None:
            await client.aclose()

        tasks.start_soon(listener.serve, hang_up)
        async with rest.socket(f"forward/{listener.extra(SocketAttribute.local_port)}") as socket:
            with anyio.fail_after(PATIENCE_S), pytest.raises(ConnectionClosed):
                while True:
                    await socket.send(b"x" * 10_000)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("who", "port", "status"), [("reader", "80", 403), ("bob", "80", 404), ("alice", "0", 400)])
async def test_forwarding_needs_the_scope_run_and_a_port(rest: Rest, who: str, port: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with rest.socket(f"forward/{port}", who):
            pass
    assert refused.value.response.status_code == status


async def test_where_nothing_listens_forwarding_is_refused(rest: Rest) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
    with pytest.raises(InvalidStatus) as refused:
        async with rest.socket(f"forward/{port}"):
            pass
    assert refused.value.response.status_code == 409
    assert b"Nothing listens" in (refused.value.response.body or b"")
