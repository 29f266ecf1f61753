"""`casemate snapshot` and `casemate fork`."""

from __future__ import annotations

import re

import pytest

from tests.mcp_server.cli.rig import Cli
from tests.mcp_server.host import SANDBOX

pytestmark = pytest.mark.anyio


async def test_a_snapshot_is_created_listed_shown_renamed_restored_and_deleted(cli: Cli) -> None:
    done = await cli("snapshot", "create", "box", "before", "--label", "team=red")
    kept = done.text.strip()
    assert re.fullmatch(r"[0-9a-f]{24}", kept)
    assert done.err == "Created snapshot before of box.\n"
    head, row = (await cli("snapshot", "list")).text.splitlines()
    assert head.split() == ["id", "name", "sandbox", "parent", "image", "cpu", "mem", "MiB", "size", "created"]
    assert re.fullmatch(rf"{kept}  before  box +- +code:latest +1 +1024 +[\d.]+ KiB +1970-01-01 00:00:05", row)
    assert (await cli("snapshot", "ls", "box", "--json")).json[0]["labels"] == {"team": "red"}
    assert re.search(rf"^sandboxId +{SANDBOX}$", (await cli("snapshot", "show", kept[:23])).text, re.MULTILINE)
    assert (await cli("snapshot", "rename", "before", "first", "--json")).json["name"] == "first"
    back = await cli("snapshot", "restore", "box", "first")
    assert back.err == "Restored box to first from 1970-01-01 00:00:05 UTC; all later changes are lost.\n"
    assert (await cli("sandbox", "get", "box", "--json")).json["snapshot"] == kept
    made = (await cli("sandbox", "create", "new", "--snapshot", "first", "--json")).json
    assert made["snapshot"] == kept
    assert "has children: sandbox new" in (await cli("snapshot", "rm", "first")).err
    assert (await cli("sandbox", "rm", "new")).status == 0
    assert (await cli("snapshot", "rm", "first")).err == "Deleted 1 snapshot.\n"
    nothing = await cli("snapshot", "list")
    assert (nothing.out, nothing.err) == (b"", "No snapshots.\n")


async def test_all_pages_of_snapshots_are_listed(cli: Cli) -> None:
    async with cli.http() as http:
        for _ in range(105):
            assert (await http.post("/api/sandboxes/box/snapshots", json={})).status_code == 201
    assert len((await cli("snapshot", "list", "--json")).json) == 105


@pytest.mark.parametrize("room", [4])
async def test_a_fork_prints_its_copies_and_reports_failed_ones(cli: Cli) -> None:
    assert [line.split()[1] for line in (await cli("fork", "box", "-n", "2")).text.splitlines()] == ["box-1", "box-2"]
    partial = await cli("fork", "box", "--count", "3")
    assert (partial.status, len(partial.out.splitlines())) == (2, 1)
    assert re.fullmatch(r"casemate: 2 of 3 copies failed\. mem must be .+ \(4096 of .+\n", partial.err)
    assert "4096 of" in (await cli("fork", "box", "--json")).refusal


async def test_a_missing_snapshot_does_not_prevent_deleting_the_others(cli: Cli) -> None:
    await cli("snapshot", "create", "box", "kept")
    done = await cli("snapshot", "rm", "nothing", "kept", "--json")
    assert (done.status, done.object) == (2, {"deleted": ["kept"]})
    assert "There is no snapshot 'nothing'" in done.err


async def test_snapshots_of_others_are_not_visible(cli: Cli) -> None:
    await cli("snapshot", "create", "box", "kept")
    bob = cli.using(key=cli.keys["bob"])
    assert (await bob("snapshot", "list", "--json")).json == []
    assert "There is no snapshot 'kept'" in (await bob("snapshot", "get", "kept")).refusal
