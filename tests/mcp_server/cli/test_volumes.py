"""`casemate volume`; what needs a real machine is at the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.server import running
from tests.mcp_server.cli.rig import Cli
from vmm.hypervisor.process import orphans

pytestmark = pytest.mark.anyio


async def test_a_volume_is_created_listed_shown_copied_and_deleted(cli: Cli) -> None:
    done = await cli("volume", "create", "data", "--size", "64")
    made = done.text.strip()
    assert re.fullmatch(r"[0-9a-f]{24}", made)
    assert done.err == "Created volume data.\n"
    head, row = (await cli("volume", "list")).text.splitlines()
    assert head.split() == ["id", "name", "size", "MiB", "attached", "created"]
    assert row.split()[:3] == [made, "data", "64"]
    copy = (await cli("volume", "snapshot", "data", "kept", "--json")).json
    assert copy["sourceId"] == made
    assert re.search(r"^sizeMB +64$", (await cli("volume", "show", "kept")).text, re.MULTILINE)
    assert (await cli("volume", "list", "box", "--json")).json == []
    assert "not attached to this sandbox" in (await cli("volume", "detach", "data", "box")).err
    assert "path must be absolute" in (await cli("volume", "attach", "data", "box", "data")).err
    for name in ("data", "kept"):
        assert (await cli("volume", "delete", name)).err == f"Deleted volume {name}.\n"
    assert "Volume not found" in (await cli("volume", "show", "data")).err
    nothing = await cli("volume", "list")
    assert (nothing.out, nothing.err) == (b"", "No volumes.\n")


async def test_a_volume_for_a_new_sandbox_has_a_name_and_a_path(cli: Cli) -> None:
    for text in ("data", "data:", ":/data", "data:/data:rw"):
        done = await cli("sandbox", "create", "new", "--volume", text)
        assert done.status == 2
        assert "--volume must be NAME:PATH or NAME:PATH:ro, such as data:/data" in done.err
    assert "Volume not found" in (await cli("sandbox", "create", "new", "--volume", "none:/data")).err


@pytest.mark.vm
async def test_a_volume_moves_between_real_machines(served: Path, tmp_path: Path) -> None:
    cli = Cli(url="", key="", keys={}, cwd=tmp_path)
    (tmp_path / "data").symlink_to(served)
    size = ("--image", "minimal", "--mem", "256")
    try:
        async with running(served):
            await cli("volume", "create", "data", "--size", "64")
            box = (await cli("sandbox", "create", "box", *size, "--volume", "data:/data")).text.strip()
            assert (await cli("sandbox", "exec", "box", "--shell", "echo mine > /data/file")).status == 0
            assert f"{box}:/data" in (await cli("volume", "list")).text
            assert f"attached to sandbox box ({box})" in (await cli("volume", "delete", "data")).err
            assert (await cli("volume", "detach", "data", "box")).err == "Detached volume data.\n"
            await cli("sandbox", "create", "two", *size)
            done = await cli("volume", "attach", "data", "two", "/mnt/data", "--read-only")
            assert done.err == "Attached at /mnt/data: volume data.\n"
            assert (await cli("sandbox", "exec", "two", "--shell", "cat /mnt/data/file")).text == "mine\n"
            assert (await cli("sandbox", "rm", "box", "two")).status == 0
            assert (await cli("volume", "delete", "data")).status == 0
    finally:
        for processes in orphans(served / "instances").values():
            for process in processes:
                await process.kill()
