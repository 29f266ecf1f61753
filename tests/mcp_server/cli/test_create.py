"""`casemate sandbox create` waits until the sandbox runs, also if the server does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server.settings import Settings
from tests.mcp_server.cli.rig import Cli
from vmm.calls.ownership import Ownership
from vmm.errors import Unavailable
from vmm.machines.clone import Cloner
from vmm.sandboxes.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, create_wait_seconds=1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> anyio.Event:
    """Set when the server is asked for a sandbox that it has answered with."""
    event, made = anyio.Event(), Ownership.made

    async def told(self: Ownership, owner: str, ref: str) -> Sandbox:
        event.set()
        return await made(self, owner, ref)

    monkeypatch.setattr(Ownership, "made", told)
    return event


async def test_a_slow_create_is_waited_for(cli: Cli, hold: anyio.Event, asked: anyio.Event) -> None:
    async with anyio.create_task_group() as tasks:

        async def release() -> None:
            await asked.wait()
            hold.set()

        tasks.start_soon(release)
        made = await cli("sandbox", "create", "new", "--json")
        assert made.json["status"] == "running"


async def test_a_slow_create_that_fails_is_told(cli: Cli, asked: anyio.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_args: Any, **_options: Any) -> None:
        await asked.wait()
        raise Unavailable("The kernel did not start")

    monkeypatch.setattr(Cloner, "clone", fails)
    assert "it was not created: The kernel did not start" in (await cli("sandbox", "create", "new")).refusal
