"""A sandbox whose guest does not answer, on every surface: the word for it, its calls, the way out, and its return."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from tests.mcp_server.cli.rig import Cli
from tests.mcp_server.conftest import Assemble
from tests.mcp_server.edge import Edge, Tools, serving, text_of
from tests.mcp_server.host import SANDBOX, OneHost, OpenHost
from vmm.guest.vitality import Grace
from vmm.lifecycle.unusable import LOST

pytestmark = pytest.mark.anyio

BASE = f"/api/sandboxes/{SANDBOX}"
RESTARTED = f"restarted from its disk: {LOST}"
QUICK = Grace(ask_s=0.05, beat_s=0.1, beats=3, living_s=math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A server, and the host behind it."""

    fleet: OneHost
    edge: Edge


@pytest.fixture
async def place(assemble: Assemble, keys: dict[str, str], open_host: OpenHost) -> AsyncGenerator[Place]:
    """A server whose calls notice soon that the guest is silent."""
    async with open_host(grace=QUICK) as fleet:
        services = assemble(fleet)
        async with serving(services.web(), keys, services.identity.run) as edge:
            yield Place(fleet=fleet, edge=edge)


async def answers_again(fleet: OneHost) -> None:
    with anyio.fail_after(60):
        while not await fleet.look():
            pass


async def test_models_see_the_word_and_the_tool_that_helps(place: Place) -> None:
    async with place.edge.client("alice") as client:
        box = Tools(client)
        with place.fleet.stopped():
            assert "no sign of life" in await box.refused("execute_command", command="echo lost", wait=1)
            shown = json.loads(await box("get_sandbox"))
            assert shown["status"] == "unresponsive"
            assert "restart_sandbox" in shown["reason"]
            listed = json.loads(text_of(await client.call_tool("list_sandboxes", {})))
            assert [one["status"] for one in listed["sandboxes"]] == ["unresponsive"]
        await answers_again(place.fleet)
        restarted = json.loads(await box("restart_sandbox"))
        assert (restarted["status"], restarted["reason"]) == ("running", RESTARTED)
        kept = json.loads(await box("snapshot_sandbox", name="kept"))
        restored = json.loads(await box("restart_sandbox", from_snapshot=True))
        assert restored["snapshot"] == kept["id"]
        assert restored["reason"].startswith(f"restarted from its newest snapshot, kept ({kept['id']})")
    async with place.edge.client("bob") as client:
        assert "There is no sandbox 'box'" in await Tools(client).refused("restart_sandbox")


async def test_clients_see_a_word_that_they_know_and_what_it_means(place: Place) -> None:
    async with place.edge.http("alice") as http, place.edge.http("bob") as bob:
        with place.fleet.stopped():
            timed_out = await http.get(f"{BASE}/metrics")
            assert (timed_out.status_code, "no sign of life" in timed_out.json()["error"]) == (504, True)
            for path, words in (
                ("exec", "Command execution failed"),
                ("exec-stream", "Command execution failed"),
                ("commands/run", "Failed to run command"),
            ):
                failed = await http.post(f"{BASE}/{path}", json={"command": "echo lost"})
                assert (failed.status_code, failed.json()["error"]) == (504, words)
                assert "no sign of life" in failed.json()["details"]
            assert (await http.get(f"{BASE}/commands/list")).json()["error"] == "Failed to list processes"
            shown = (await http.get(BASE)).json()["data"]
            assert (shown["status"], shown["unresponsive"]) == ("error", True)
            assert "has not answered" in shown["reason"]
            foreign = await bob.post(f"{BASE}/restart")
            missing = await bob.post(f"/api/sandboxes/{'f' * 24}/restart")
            assert foreign.status_code == missing.status_code == 404
            assert foreign.json()["error"].replace(SANDBOX, "f" * 24) == missing.json()["error"]
            assert (await http.post(f"{BASE}/restart", json={"fromSnapshot": "yes"})).status_code == 400
        await answers_again(place.fleet)
        shown = (await http.get(BASE)).json()["data"]
        assert (shown["status"], {"unresponsive", "reason"} & set(shown)) == ("running", set())
        restarted = await http.post(f"{BASE}/restart")
        assert (restarted.status_code, restarted.json()["message"]) == (200, "Sandbox restarted")
        assert restarted.json()["data"]["reason"] == RESTARTED
        await http.post(f"{BASE}/snapshots", json={"name": "kept"})
        restored = await http.post(f"{BASE}/restart", json={"fromSnapshot": True})
        assert "newest snapshot" in restored.json()["data"]["reason"]


async def test_people_see_it_in_the_list_and_restart_it(place: Place, tmp_path: Path) -> None:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    cli = Cli(url=place.edge.url, key=place.edge.keys["alice"], keys=place.edge.keys, cwd=cwd)
    with place.fleet.stopped():
        assert not await place.fleet.look()
        assert re.search(r"  box +unresponsive +code:latest ", (await cli("sandbox", "list")).text)
        _, row = (await cli("top", "--once")).text.splitlines()
        assert row.split()[:3] == [SANDBOX, "box", "unresponsive"]
        assert "restart_sandbox" in (await cli("sandbox", "get", "box")).text
    await answers_again(place.fleet)
    assert (await cli("sandbox", "restart", "box")).err == f"box is running: {RESTARTED}\n"
    assert (await cli("snapshot", "create", "box", "kept")).status == 0
    assert "newest snapshot" in (await cli("sandbox", "restart", "box", "--from-snapshot")).err
    bob = cli.using(key=cli.keys["bob"])
    assert "There is no sandbox 'box'" in (await bob("sandbox", "restart", "box")).refusal
