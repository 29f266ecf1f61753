"""The command line with real machines, with and without a running server."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import anyio
import httpx
import pytest

from bench.server import running
from tests.mcp_server.cli.rig import Cli
from tests.vmm.agent.trees import grow, look
from vmm.hypervisor.process import orphans

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


async def test_a_sandbox_is_created_used_and_deleted_with_and_without_a_server(served: Path, tmp_path: Path) -> None:
    cli = Cli(url="", key="", keys={}, cwd=tmp_path)
    (tmp_path / "data").symlink_to(served)
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "run").write_text("#!/bin/sh\necho ran $WORD")
    (tmp_path / "tree" / "sub" / "run").chmod(0o755)
    try:
        async with running(served):
            options = ("--image", "minimal", "--mem", "512", "--env", "WORD=here")
            made = (await cli("sandbox", "create", "box", *options)).text.strip()
            assert (await cli("cp", "tree", "box:/root")).status == 0
            assert (await cli("sandbox", "exec", "box", "--", "/root/tree/sub/run")).text == "ran here\n"
            async with cli.on_terminal("shell", "box") as terminal:
                await terminal.sees("~#")
                terminal.type("stty size; /root/tree/sub/run; exit 6\r")
                await terminal.sees("24 132")
                await terminal.sees("ran here")
                assert await terminal.ended() == 6
                assert terminal.restored
            (use,) = (await cli("top", "--once", "--json")).json
            assert use["id"] == made
            assert use["memoryTotal"] < 512 << 20
            (record,) = (await cli("audit", "--sandbox", "box", "--action", "sandbox.create", "--json")).json
            assert record["sandbox"] == made

        done = await cli("sandbox", "exec", "box", "--shell", "echo $WORD; exit 9")
        assert (done.status, done.out) == (9, b"here\n")
        assert (await cli("cp", "box:/root/tree", "back")).status == 0
        assert (tmp_path / "back" / "sub" / "run").stat().st_mode & 0o111
        async with cli.on_terminal("shell", "box") as terminal:
            await terminal.sees("~#")
            terminal.type("exit 8\r")
            assert await terminal.ended() == 8
    finally:
        await cli("sandbox", "rm", "--all")
    assert orphans(served / "instances") == {}


async def test_trees_pipes_and_kernel_files_are_copied_through_a_real_machine(served: Path, tmp_path: Path) -> None:
    cli = Cli(url="", key="", keys={}, cwd=tmp_path)
    (tmp_path / "data").symlink_to(served)
    tree, many = tmp_path / "tree", tmp_path / "many"
    tree.mkdir()
    grow(tree)
    for number in range(5000):
        (many / str(number % 50)).mkdir(parents=True, exist_ok=True)
        (many / str(number % 50) / str(number)).write_bytes(os.urandom(500))
    blob = os.urandom(20_000_000)
    try:
        async with running(served):
            await cli("sandbox", "create", "box", "--image", "minimal", "--mem", "512")
            await cli("sandbox", "create", "twin", "--image", "minimal", "--mem", "512")
            for source, target in (
                ("tree", "box:/root"),
                ("box:/root/tree", "twin:/root/across"),
                ("twin:/root/across", "back"),
                ("many", "box:/root/many"),
                ("box:/root/many", "many-back"),
            ):
                done = await cli("cp", source, target)
                assert done.status == 0, done
            assert look(tmp_path / "back") == look(tree)
            assert look(tmp_path / "many-back") == look(many)
            facts = "stat -c '%n %a %h %U' tree/one tree/run; readlink tree/link"
            found = await cli("sandbox", "exec", "box", "--cwd", "/root", "--shell", facts)
            assert found.text.splitlines() == ["tree/one 644 2 root", "tree/run 755 1 root", "sub/size-511"]

            fed = ("sandbox", "exec", "-i", "box")
            packed = await anyio.run_process(["tar", "c", "-C", str(many), "."])
            line = "mkdir /tmp/x && tar x -C /tmp/x && find /tmp/x -type f | wc -l"
            assert (await cli(*fed, "--shell", line, stdin=packed.stdout)).text == "5000\n"
            digest = hashlib.sha256(blob).hexdigest()
            assert (await cli(*fed, "--", "sha256sum", stdin=blob)).text == f"{digest}  -\n"

            # Files whose reported size is wrong, in either direction.
            whole = (await cli("sandbox", "exec", "box", "--", "cat", "/proc/cpuinfo")).out
            assert (await cli("cp", "box:/proc/cpuinfo", "-")).out[:50] == whole[:50]
            assert (await cli("cp", "box:/sys/class/net/lo/mtu", "-")).out == b"65536\n"
            assert (await cli("cp", "-", "box:/proc/sys/kernel/threads-max", stdin=b"4321\n")).status == 0
            assert (await cli("cp", "box:/proc/sys/kernel/threads-max", "-")).out == b"4321\n"
            refused = await cli("cp", "-", "box:/proc/sys/kernel/threads-max", stdin=b"many\n")
            assert "Invalid argument" in refused.refusal
    finally:
        await cli("sandbox", "rm", "--all")
    assert orphans(served / "instances") == {}


async def machines_started(url: str) -> int:
    """Return the number of machines that a server started, by any method."""
    async with httpx.AsyncClient(base_url=url) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    counts = re.findall(r"^casemate_machines_started_total\{.*\} (\d+)\.0$", answer.text, re.MULTILINE)
    return sum(int(count) for count in counts)


async def test_a_sandbox_is_snapshotted_restored_forked_and_put_to_sleep(served: Path, tmp_path: Path) -> None:
    cli = Cli(url="", key="", keys={}, cwd=tmp_path)
    (tmp_path / "data").symlink_to(served)

    async def contents(ref: str) -> list[str]:
        done = await cli("sandbox", "exec", ref, "--shell", "cat /run/word; ls /root")
        return done.text.splitlines()

    try:
        async with running(served) as server:
            await cli("sandbox", "create", "box", "--image", "minimal", "--mem", "512", "--ttl", "1h")
            assert (await cli("sandbox", "exec", "box", "--shell", "echo first > /run/word")).status == 0
            kept = (await cli("snapshot", "create", "box", "good")).text.strip()
            await cli("sandbox", "exec", "box", "--shell", "echo second > /run/word; touch /root/later")
            assert await contents("box") == ["second", "later"]
            assert (await cli("snapshot", "restore", "box", "good")).status == 0
            assert await contents("box") == ["first"]

            names = [line.split()[1] for line in (await cli("fork", "box", "-n", "2")).text.splitlines()]
            assert names == ["box-1", "box-2"]
            assert await contents("box-2") == ["first"]
            assert (await cli("sandbox", "sleep", "box", "box-1")).err == "box is asleep.\nbox-1 is asleep.\n"
            states = {row["name"]: row["status"] for row in (await cli("top", "--once", "--json")).json}
            assert states == {"box": "snapshotted", "box-1": "snapshotted", "box-2": "running"}
            assert "asleep" in (await cli("sandbox", "list")).text
            assert await contents("box") == ["first"]
            assert "has children: sandbox box-" in (await cli("snapshot", "rm", "good")).refusal
            assert (
                await machines_started(server.url.removesuffix("/api/mcp")) == 5
            )  # create, restore, a fork of two, wake
        # Without a server, the command starts a temporary one, which finds sleeping sandboxes.
        assert await contents("box-1") == ["first"]
        assert (await cli("snapshot", "get", kept[:20], "--json")).json["name"] == "good"
    finally:
        await cli("sandbox", "rm", "--all")
        await cli("snapshot", "rm", "good")
    assert (await cli("snapshot", "list", "--json")).json == []
    assert orphans(served / "instances") == {}
