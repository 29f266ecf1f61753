"""With `sync` false, a create is answered at once, and the sandbox is made in the background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.mcp_server.edge import Edge
from tests.waiting import PATIENCE_S
from vmm.errors import Unavailable
from vmm.machines.clone import Cloner
from vmm.machines.machine import Machine

pytestmark = pytest.mark.anyio

NEW = {"name": "new", "sync": False}


async def status(host: Edge, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the sandbox as it is shown once it is as wanted."""
    async with host.http("alice") as alice:
        with anyio.fail_after(PATIENCE_S):
            while not wanted(seen := (await alice.get("/api/sandboxes/new")).json()):
                await anyio.sleep(0.02)
    return seen


async def test_it_is_shown_as_clients_know_it_and_calls_wait_for_it(host: Edge, hold: anyio.Event) -> None:
    said: list[Any] = []
    async with host.http("alice") as alice, anyio.create_task_group() as tasks:
        created = await alice.post("/api/sandboxes", json=NEW)
        assert (created.status_code, created.json()["data"]["status"]) == (201, "snapshotted")

        async def call() -> None:
            said.append(await alice.post("/api/sandboxes/new/exec", json={"command": "echo hi"}))

        tasks.start_soon(call)
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        assert said == []
        hold.set()
    assert [answer.json()["data"]["stdout"] for answer in said] == ["hi\n", "hi\n"]
    assert (await status(host, lambda seen: True))["data"]["status"] == "running"


@pytest.mark.parametrize(("verb", "after"), [("wake", "running"), ("start", "running"), ("sleep", "snapshotted")])
async def test_a_change_of_its_state_waits_for_it(host: Edge, hold: anyio.Event, verb: str, after: str) -> None:
    said: list[int] = []
    async with host.http("alice") as alice, anyio.create_task_group() as tasks:
        await alice.post("/api/sandboxes", json=NEW)

        async def call() -> None:
            said.append((await alice.post(f"/api/sandboxes/new/{verb}")).status_code)

        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        assert said == []
        hold.set()
    assert said == [200]
    assert (await status(host, lambda seen: True))["data"]["status"] == after


async def test_it_can_be_deleted_meanwhile(host: Edge, hold: anyio.Event) -> None:
    async with host.http("alice") as alice:
        made = (await alice.post("/api/sandboxes", json=NEW)).json()["data"]["id"]
        assert (await alice.delete(f"/api/sandboxes/{made}")).status_code == 200
        hold.set()
        await anyio.wait_all_tasks_blocked()
        assert (await alice.get(f"/api/sandboxes/{made}")).status_code == 404
        assert (await alice.post(f"/api/sandboxes/{made}/exec", json={"command": "true"})).status_code == 404


async def test_its_failure_is_shown_with_the_reason(host: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_args: Any, **_options: Any) -> Machine:
        raise Unavailable("The kernel did not start")

    monkeypatch.setattr(Cloner, "clone", fails)
    async with host.http("alice") as alice:
        made = (await alice.post("/api/sandboxes", json=NEW)).json()["data"]["id"]
        seen = await status(host, lambda seen: seen["data"]["status"] == "error")
        assert seen["data"]["reason"] == "it was not created: The kernel did not start"
        refused = await alice.post(f"/api/sandboxes/{made}/exec", json={"command": "true"})
        assert (refused.status_code, "The kernel did not start" in refused.text) == (409, True)
        assert (await alice.post(f"/api/sandboxes/{made}/start")).status_code == 409
        assert (await alice.delete(f"/api/sandboxes/{made}")).status_code == 200
        assert (await alice.get(f"/api/sandboxes/{made}")).status_code == 404
