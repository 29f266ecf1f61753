"""`casemate top`: resource usage of sandboxes."""

from __future__ import annotations

import json
import signal

import anyio
import pytest

from mcp_server.cli.top import usage
from tests.mcp_server.cli.rig import Cli
from tests.mcp_server.host import SANDBOX
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

BOX = {"id": "1", "name": "box", "status": "running"}
SAMPLE = {
    "uptimeMs": 10_000,
    "cpuUsedMs": 4_000,
    "memoryTotal": 1000,
    "memoryAvailable": 400,
    "diskTotal": 900,
    "diskFree": 800,
    "processes": 7,
}


def test_cpu_usage_is_measured_between_two_samples() -> None:
    later = SAMPLE | {"uptimeMs": 12_000, "cpuUsedMs": 5_000}
    assert usage(BOX, SAMPLE, later).as_json() == {
        "id": "1",
        "name": "box",
        "status": "running",
        "cpuPercent": 50.0,
        "memoryUsed": 600,
        "memoryTotal": 1000,
        "diskUsed": 100,
        "diskTotal": 900,
        "processes": 7,
    }


@pytest.mark.parametrize("before", [{}, SAMPLE, SAMPLE | {"uptimeMs": 99_000}, {"uptimeMs": "x", "cpuUsedMs": None}])
def test_cpu_usage_is_unknown_without_a_valid_earlier_sample(before: dict[str, object]) -> None:
    assert usage(BOX, before, SAMPLE).cpu_percent is None
    assert usage(BOX, before, {}).shown() == ("1", "box", "running", *("-",) * 6)


async def test_one_sample_is_printed_as_a_table_or_as_json(cli: Cli) -> None:
    head, row = (await cli("top")).text.splitlines()
    assert head.split()[:3] == ["id", "name", "status"]
    assert row.startswith(f"{SANDBOX}  box")
    (found,) = (await cli("top", "box", "--once", "--json")).json
    assert 0 < found["memoryUsed"] < found["memoryTotal"]
    assert found["processes"] > 0


async def test_a_sleeping_sandbox_is_shown_and_not_woken(cli: Cli) -> None:
    assert (await cli("sandbox", "sleep", "box")).status == 0
    _, row = (await cli("top")).text.splitlines()
    assert row.split() == [SANDBOX, "box", "asleep", *"------"]
    (found,) = (await cli("top", "--once", "--json")).json
    assert (found["status"], found["memoryUsed"]) == ("snapshotted", None)


async def test_json_samples_are_printed_line_by_line_until_an_interrupt(cli: Cli) -> None:
    async with cli.started("top", "--json") as process:
        assert process.stdout is not None
        with anyio.fail_after(PATIENCE_S):
            (found,) = json.loads(await process.stdout.receive())
            assert found["name"] == "box"
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 128 + signal.SIGINT


async def test_the_table_on_a_terminal_is_refreshed_and_the_screen_restored(cli: Cli) -> None:
    async with cli.on_terminal("top") as terminal:
        await terminal.sees(SANDBOX)
        assert "memory" in terminal.shown
        terminal.process.send_signal(signal.SIGTERM)
        assert await terminal.ended() == 128 + signal.SIGTERM
        assert terminal.restored
        assert terminal.written.endswith(b"\x1b[?1049l\x1b[?25h") or terminal.written.endswith(b"\x1b[?25h\x1b[?1049l")
