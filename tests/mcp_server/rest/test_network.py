"""The network of a sandbox over REST: its policy, its log as a list and as a stream, and what commands are told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.mcp_server.host import OneHost
from tests.mcp_server.rest.conftest import BASE, Rest, data_of, events
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

REFUSED = '[network: refused example.com:443 by policy "packages"; to allow: update_sandbox(network=...)]'


async def running(place: Path) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not (place / "began").exists():
            await anyio.sleep(0.02)


def waiting(place: Path) -> dict[str, str]:
    return {"command": f"touch {place}/began; until test -e {place}/go; do sleep 0.02; done; echo done"}


async def next_event(lines: AsyncIterator[str]) -> dict[str, Any]:
    with anyio.fail_after(PATIENCE_S):
        while not (line := await anext(lines)).strip():
            pass
    return json.loads(line)


async def test_a_policy_is_created_changed_shown_and_given_back(http: httpx.AsyncClient) -> None:
    made = await http.post("/api/sandboxes", json={"name": "more", "network": ["443/tcp", "example.com"]})
    assert made.json()["data"]["network"] == "example.com,443/tcp"
    where = f"/api/sandboxes/{made.json()['data']['id']}"
    assert data_of(await http.patch(where, json={"network": "none"}))["network"] == "none"
    assert data_of(await http.get(where))["network"] == "none"
    assert data_of(await http.get(f"{where}/network"))["policy"] == "none"
    for word in ("", "default"):
        await http.patch(where, json={"network": "packages"})
        assert "network" not in data_of(await http.patch(where, json={"network": word}))
        assert "network" not in data_of(await http.get(where))


@pytest.mark.parametrize("written", ["all", "0.0.0.0/0", [], ["example.com:443"], 7, {"allow": ["example.com"]}])
async def test_what_is_no_policy_is_refused(http: httpx.AsyncClient, written: object) -> None:
    for answer in (
        await http.patch(BASE, json={"network": written}),
        await http.post("/api/sandboxes", json={"name": "more", "network": written}),
    ):
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("network")
    assert "network" not in data_of(await http.get(BASE))


async def test_the_network_of_a_sandbox_is_described(http: httpx.AsyncClient, fleet_of_one: OneHost) -> None:
    described = {"policy": "internet", "own": False, "way": "user mode", "allowed": 0, "refused": 0}
    assert data_of(await http.get(f"{BASE}/network")) == described | {"suggestion": "none"}
    fleet_of_one.allows("example.com")
    fleet_of_one.refuses("example.org")
    await http.patch(BASE, json={"network": "learn"})
    assert data_of(await http.get(f"{BASE}/network")) == {
        "policy": "learn",
        "own": True,
        "way": "user mode",
        "allowed": 1,
        "refused": 1,
        "suggestion": "example.com,443/tcp",
    }


async def test_the_log_is_read_from_any_number_on(http: httpx.AsyncClient, fleet_of_one: OneHost) -> None:
    assert data_of(await http.get(f"{BASE}/network/log")) == []
    fleet_of_one.allows("example.com")
    fleet_of_one.refuses("example.org", port=22)
    log: Any = data_of(await http.get(f"{BASE}/network/log"))
    first, second = log
    time = "1970-01-01T00:00:05.000Z"
    assert first == {
        "number": 1,
        "time": time,
        "allowed": True,
        "protocol": "tcp",
        "host": "example.com",
        "port": 443,
    }
    assert second == first | {
        "number": 2,
        "allowed": False,
        "host": "example.org",
        "port": 22,
        "reason": 'policy "packages"',
    }
    assert data_of(await http.get(f"{BASE}/network/log?after=1")) == [second]
    assert data_of(await http.get(BASE))["networkLog"] == [first, second]
    for query in ("after=-1", "after=x", "follow=perhaps"):
        assert (await http.get(f"{BASE}/network/log?{query}")).status_code == 400


async def test_a_followed_log_goes_on_and_ends_with_its_sandbox(
    http: httpx.AsyncClient, fleet_of_one: OneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.rest.network._KEEP_ALIVE_S", 0.05)
    fleet_of_one.allows("example.com")
    fleet_of_one.allows("example.org")
    async with http.stream("GET", f"{BASE}/network/log?follow=true&after=1") as answer:
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        lines = answer.aiter_lines()
        assert (await next_event(lines))["host"] == "example.org"
        fleet_of_one.refuses("late.example.com")
        assert await next_event(lines) | {"host": "late.example.com", "allowed": False} == {
            "number": 3,
            "time": "1970-01-01T00:00:05.000Z",
            "allowed": False,
            "protocol": "tcp",
            "host": "late.example.com",
            "port": 443,
            "reason": 'policy "packages"',
        }
        await http.delete(BASE)
        with anyio.fail_after(PATIENCE_S):
            assert not [line async for line in lines if line.strip()]


async def test_the_log_of_a_deleted_sandbox_is_gone(http: httpx.AsyncClient, fleet_of_one: OneHost) -> None:
    fleet_of_one.refuses("example.com")
    await http.delete(BASE)
    assert (await http.get(f"{BASE}/network/log")).status_code == 404
    assert fleet_of_one.network.counts() == (0, 1)


async def test_others_see_nothing_of_it_and_a_reader_may_look(rest: Rest) -> None:
    async with rest.http("bob") as bob, rest.http("reader") as reader:
        for path in ("network", "network/log", "network/log?follow=true"):
            assert (await bob.get(f"{BASE}/{path}")).status_code == 404
        assert (await reader.get(f"{BASE}/network/log")).status_code == 200
        assert (await reader.patch(BASE, json={"network": "none"})).status_code == 403


async def test_a_result_has_a_field_for_what_was_refused_only_if_something_was(
    http: httpx.AsyncClient, fleet_of_one: OneHost, place: Path
) -> None:
    results: list[dict[str, Any]] = []

    async def call() -> None:
        results.append(data_of(await http.post(f"{BASE}/exec", json=waiting(place))))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await running(place)
        fleet_of_one.refuses("example.com")
        (place / "go").touch()
    assert results == [{"stdout": "done\n", "stderr": "", "exitCode": 0, "network": REFUSED}]
    plain = data_of(await http.post(f"{BASE}/exec", json={"command": "true"}))
    assert plain == {"stdout": "", "stderr": "", "exitCode": 0}


async def test_a_stream_ends_with_what_was_refused(http: httpx.AsyncClient, fleet_of_one: OneHost, place: Path) -> None:
    async with http.stream("POST", f"{BASE}/exec-stream", json=waiting(place)) as answer:
        await running(place)
        fleet_of_one.refuses("example.com")
        (place / "go").touch()
        found = await events(answer.aiter_lines())
    assert found[-1] == ("exit", json.dumps({"exitCode": 0, "network": REFUSED}))
