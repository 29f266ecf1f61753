"""`casemate network`, and policies on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anyio
import pytest

from tests.mcp_server.cli.rig import Cli, Result
from tests.mcp_server.host import OneHost
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


async def test_a_policy_is_given_changed_and_taken_back(cli: Cli) -> None:
    made = (await cli("sandbox", "create", "mine", "--network", "443/tcp,example.com", "--json")).json
    assert made["network"] == "example.com,443/tcp"
    shown = (await cli("sandbox", "update", "mine", "--network", "packages")).text
    assert re.search(r"^network +packages$", shown, re.MULTILINE)
    assert "network" not in (await cli("sandbox", "update", "mine", "--network", "default", "--json")).json
    assert "network must " in (await cli("sandbox", "update", "mine", "--network", "all")).refusal


async def test_the_log_is_a_table_or_json(cli: Cli, fleet_of_one: OneHost) -> None:
    assert (await cli("network", "log", "box")).err == "No connections yet.\n"
    fleet_of_one.allows("example.com")
    fleet_of_one.refuses("a\x1b[31mb", port=22)
    allowed, refused = (await cli("network", "log", "box")).text.splitlines()
    assert re.fullmatch(r"1970-01-01 00:00:05  allowed  tcp  example.com:443 +-", allowed)
    assert re.search(r'refused  tcp  a\\x1b\[31mb:22 +policy "packages"$', refused)
    assert [one["port"] for one in (await cli("network", "log", "box", "--json")).json] == [443, 22]
    fleet_of_one.refuses("example.org", port=0, protocol="icmp")
    assert re.search(r"refused  icmp  example\.org +policy", (await cli("network", "log", "box")).text)
    assert "There is no sandbox 'nobody'" in (await cli("network", "log", "nobody")).refusal


async def test_a_followed_log_prints_what_comes(cli: Cli, fleet_of_one: OneHost) -> None:
    fleet_of_one.allows("example.com")
    async with cli.started("network", "log", "box", "-f", "--json") as process:
        assert process.stdout is not None
        seen = ""
        with anyio.fail_after(PATIENCE_S):
            while seen.count("\n") < 2:
                seen += (await process.stdout.receive()).decode()
                if seen.count("\n") == 1:
                    fleet_of_one.refuses("example.org")
    assert [json.loads(line)["host"] for line in seen.splitlines()] == ["example.com", "example.org"]


async def test_what_was_learned_is_printed_as_a_policy(cli: Cli, fleet_of_one: OneHost) -> None:
    assert (await cli("network", "suggest", "box")).text == "none\n"
    fleet_of_one.allows("example.com")
    fleet_of_one.refuses("example.org")
    assert (await cli("network", "suggest", "box")).text == "example.com,443/tcp\n"
    assert (await cli("network", "suggest", "box", "--json")).json["allowed"] == 1


async def test_a_command_says_what_it_was_refused(cli: Cli, fleet_of_one: OneHost, guest: Path) -> None:
    line = f"touch {guest}/began; until test -e {guest}/go; do sleep 0.02; done; echo done; exit 7"
    results: list[Result] = []

    async def call() -> None:
        results.append(await cli("sandbox", "exec", "box", "--shell", "--", line))

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            while not (guest / "began").exists():
                await anyio.sleep(0.02)
            fleet_of_one.refuses("example.com")
            (guest / "go").touch()
    assert (results[0].status, results[0].out) == (7, b"done\n")
    assert results[0].err.startswith("[network: refused example.com:443 by policy")
