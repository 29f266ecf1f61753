"""`casemate sandbox`: list, create, show, change and delete sandboxes."""

from __future__ import annotations

import re

import pytest

from tests.mcp_server.cli.rig import Cli
from tests.mcp_server.host import SANDBOX, OneHost

pytestmark = pytest.mark.anyio


async def test_sandboxes_are_listed_as_a_table_and_as_json(cli: Cli) -> None:
    assert re.search(
        rf"^{SANDBOX}  box +running +code:latest +1 +1024 ", (await cli("sandbox", "list")).text, re.MULTILINE
    )
    (box,) = (await cli("sandbox", "list", "--json")).json
    assert (box["id"], box["name"], box["cpu"]) == (SANDBOX, "box", 1)


async def test_a_sandbox_is_created_with_options_shown_and_deleted(cli: Cli) -> None:
    options = ("--image", "minimal", "--cpu", "2", "--mem", "2048", "--env", "A=b=c", "--label", "team=red")
    made = (await cli("sandbox", "create", "mine", *options, "--json")).json
    assert (made["name"], made["image"], made["cpu"], made["mem"]) == ("mine", "minimal:latest", 2, 2048)
    assert made["labels"] == {"team": "red"}
    assert (await cli("sandbox", "create", "other")).text.strip() != made["id"]

    assert [one["name"] for one in (await cli("sandbox", "list", "--label", "team=red", "--json")).json] == ["mine"]
    assert (await cli("sandbox", "get", "mine", "--json")).json == made
    assert re.search(r"^labels +team=red$", (await cli("sandbox", "get", made["id"])).text, re.MULTILINE)

    assert (await cli("sandbox", "rm", "mine", "other")).err == "Deleted 2 sandboxes.\n"
    assert (await cli("sandbox", "rm", "--all", "--json")).json == {"ended": [SANDBOX]}
    nothing = await cli("sandbox", "list")
    assert (nothing.out, nothing.err) == (b"", "No sandboxes.\n")
    assert (await cli("sandbox", "list", "--json")).json == []


async def test_all_pages_of_sandboxes_are_listed(cli: Cli, fleet_of_one: OneHost) -> None:
    for number in range(105):
        await fleet_of_one.add_sleeper(f"box-{number}")
    found = (await cli("sandbox", "list", "--json")).json
    assert {one["name"] for one in found} == {"box", *(f"box-{number}" for number in range(105))}
    assert len((await cli("sandbox", "list")).text.splitlines()) == 107


async def test_sandboxes_of_others_are_not_visible(cli: Cli) -> None:
    bob = cli.using(key=cli.keys["bob"])
    assert (await bob("sandbox", "list", "--json")).json == []
    assert "There is no sandbox 'box'" in (await bob("sandbox", "get", "box")).refusal


async def test_a_missing_sandbox_does_not_prevent_deleting_the_others(cli: Cli) -> None:
    done = await cli("sandbox", "rm", "nobody", "box", "--json")
    assert (done.status, done.object) == (2, {"ended": ["box"]})
    assert "There is no sandbox 'nobody'" in done.err
    assert (await cli("sandbox", "list", "--json")).json == []


async def test_a_sandbox_is_updated_put_to_sleep_woken_and_started(cli: Cli) -> None:
    options = ("--name", "cart", "--label", "team=red", "--ttl", "2h", "--idle", "none", "--no-auto-sleep")
    changed = (await cli("sandbox", "update", "box", *options, "--json")).json
    assert (changed["name"], changed["labels"], changed["ttlSeconds"]) == ("cart", {"team": "red"}, 7200)
    assert (changed["idleSeconds"], changed["autoSleep"]) == (0, False)
    shown = (await cli("sandbox", "update", "cart", "--ttl", "none", "--label", "none")).text
    assert re.search(r"^name +cart$", shown, re.MULTILINE)
    assert not re.search(r"^(expiresAt|labels)", shown, re.MULTILINE)

    assert (await cli("sandbox", "sleep", "cart")).err == "cart is asleep.\n"
    assert re.search(r"  cart +asleep +code:latest ", (await cli("sandbox", "list")).text)
    assert (await cli("sandbox", "wake", "cart", "--json")).json[0]["status"] == "running"
    assert (await cli("sandbox", "start", "cart", SANDBOX)).err == f"cart is running.\n{SANDBOX} is running.\n"


async def test_a_sandbox_is_created_with_a_time_to_live_and_an_idle_time(cli: Cli) -> None:
    made = (await cli("sandbox", "create", "short", "--ttl", "90s", "--idle", "15m", "--json")).json
    assert (made["ttlSeconds"], made["idleSeconds"]) == (90, 900)
