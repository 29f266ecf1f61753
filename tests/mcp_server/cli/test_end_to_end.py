"""The command line on real machines, through the server of the data directory and without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.server import running
from tests.mcp_server.cli.rig import Cli
from vmm.hypervisor.process import strays

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]


async def test_a_sandbox_is_created_used_and_ended_with_a_server_and_without_one(served: Path, tmp_path: Path) -> None:
    cli = Cli(url="", key="", keys={}, here=tmp_path)
    (tmp_path / "data").symlink_to(served)
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "run").write_text("#!/bin/sh\necho ran $WORD")
    (tmp_path / "tree" / "sub" / "run").chmod(0o755)
    try:
        async with running(served):
            wish = ("--image", "minimal", "--mem", "512", "--env", "WORD=here")
            made = (await cli("sandbox", "create", "box", *wish)).text.strip()
            assert (await cli("cp", "tree", "box:/root")).status == 0
            assert (await cli("sandbox", "exec", "box", "--", "/root/tree/sub/run")).text == "ran here\n"
            async with cli.on_terminal("shell", "box") as seat:
                await seat.sees("~#")
                seat.type("stty size; /root/tree/sub/run; exit 6\r")
                await seat.sees("24 132")
                await seat.sees("ran here")
                assert await seat.ended() == 6
                assert seat.restored
            (use,) = (await cli("top", "--once", "--json")).json
            assert use["id"] == made
            assert use["memoryTotal"] < 512 << 20
            (record,) = (await cli("audit", "--sandbox", "box", "--action", "sandbox.create", "--json")).json
            assert record["sandbox"] == made

        done = await cli("sandbox", "exec", "box", "--shell", "echo $WORD; exit 9")
        assert (done.status, done.out) == (9, b"here\n")
        assert (await cli("cp", "box:/root/tree", "back")).status == 0
        assert (tmp_path / "back" / "sub" / "run").stat().st_mode & 0o111
        async with cli.on_terminal("shell", "box") as seat:
            await seat.sees("~#")
            seat.type("exit 8\r")
            assert await seat.ended() == 8
    finally:
        await cli("sandbox", "rm", "--all")
    assert strays(served / "instances") == {}
