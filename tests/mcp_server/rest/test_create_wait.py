"""A create that takes longer than the server lets a client wait is answered with a sandbox, which calls wait for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from mcp_server.settings import Settings
from tests.clients.voidrun_package import VoidRun
from tests.mcp_server.edge import Edge
from tests.waiting import PATIENCE_S
from vmm.calls.ownership import Ownership
from vmm.errors import Unavailable
from vmm.machines.clone import Cloner
from vmm.sandboxes.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, create_wait_seconds=1)


async def test_it_is_answered_with_the_sandbox_that_calls_wait_for(host: Edge, hold: anyio.Event) -> None:
    said: list[Any] = []
    async with host.http("alice") as alice, anyio.create_task_group() as tasks:
        created = await alice.post("/api/sandboxes", json={"name": "new"})
        assert (created.status_code, created.json()["data"]["status"]) == (201, "snapshotted")
        made = created.json()["data"]["id"]

        async def call() -> None:
            said.append(await alice.post(f"/api/sandboxes/{made}/exec", json={"command": "echo hi"}))

        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        assert said == []
        hold.set()
    assert said[0].json()["data"]["stdout"] == "hi\n"


async def test_voidruns_client_goes_on_with_it(host: Edge, hold: anyio.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    get = Ownership.get

    async def begin(self: Ownership, owner: str, ref: str) -> Sandbox:
        hold.set()  # by the first call that is about it
        return await get(self, owner, ref)

    def use() -> tuple[str, str]:
        client: Any = VoidRun(api_key=host.keys["alice"], base_url=f"{host.url}/api")
        made = client.create_sandbox(name="new")
        return made.status, made.exec("echo hi").data.stdout

    monkeypatch.setattr(Ownership, "get", begin)
    assert await anyio.to_thread.run_sync(use) == ("snapshotted", "hi\n")


async def test_a_failure_in_this_time_is_answered_and_leaves_nothing(
    host: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_args: Any, **_options: Any) -> None:
        raise Unavailable("The kernel did not start")

    monkeypatch.setattr(Cloner, "clone", fails)
    async with host.http("alice") as alice:
        refused = await alice.post("/api/sandboxes", json={"name": "new"})
        assert (refused.status_code, refused.json()["error"]) == (503, "The kernel did not start")
        assert (await alice.get("/api/sandboxes/new")).status_code == 404


async def test_a_later_failure_is_shown_by_the_sandbox(host: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    go = anyio.Event()

    async def fails(*_args: Any, **_options: Any) -> None:
        await go.wait()
        raise Unavailable("The kernel did not start")

    monkeypatch.setattr(Cloner, "clone", fails)
    async with host.http("alice") as alice:
        made = (await alice.post("/api/sandboxes", json={"name": "new"})).json()["data"]["id"]
        go.set()
        with anyio.fail_after(PATIENCE_S):
            while (seen := (await alice.get(f"/api/sandboxes/{made}")).json()["data"])["status"] != "error":
                await anyio.sleep(0.02)
        assert seen["reason"] == "it was not created: The kernel did not start"
