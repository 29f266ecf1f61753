"""The end of a real server and the next one's beginning: what becomes of machines, and whether what is said is true."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Generator
from pathlib import Path

import anyio
import httpx
import pytest
from mcp import Client

from bench.server import Server, call
from tests.mcp_server.edge import ACCEPT, initialize, rpc
from tests.server_process import SMALL, cli, serving
from tests.waiting import PATIENCE_S
from vmm.hypervisor.process import orphans

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@pytest.fixture
def place(served: Path) -> Generator[Path]:
    """The servers' directory, without sandboxes before and after."""
    (served / "server.log").write_text("")
    yield served
    cli(served, "sandbox", "rm", "--all")
    assert orphans(served / "instances") == {}
    assert list((served / "instances").iterdir()) == []


def said(data: Path) -> str:
    """The last line that a server has said."""
    return (data / "server.log").read_text().splitlines()[-1]


async def stop(server: Server, number: signal.Signals) -> None:
    os.kill(server.process.pid, number)
    with anyio.fail_after(PATIENCE_S):
        await server.process.ended()


async def counting(client: Client, name: str) -> tuple[str, int]:
    """Make a sandbox in which something counts, in memory alone."""
    box = json.loads(await call(client, "create_sandbox", name=name, **SMALL))["id"]
    line = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.2; done"
    started = await call(client, "run_background_command", id=box, command=line)
    return box, int(started.split("pid ")[1].split(".")[0])


async def count(client: Client, box: str, pid: int) -> int:
    """How far the counting has come."""
    shown = await call(client, "read_process_output", id=box, pid=pid)
    return max(map(int, re.findall(r"^(\d+)$", shown, re.MULTILINE)), default=0)


async def status(client: Client, box: str) -> str:
    """What its record says; to ask does not wake it."""
    return json.loads(await call(client, "get_sandbox", id=box))["status"]


async def runs(client: Client, box: str) -> None:
    """Return once a sandbox runs that nobody has called."""
    with anyio.fail_after(PATIENCE_S):
        while await status(client, box) != "running":
            await anyio.sleep(0.1)


async def counts_on(client: Client, box: str, pid: int, seen: int) -> None:
    """Return once the counting has gone beyond a number, without having begun anew."""
    with anyio.fail_after(PATIENCE_S):
        while (now := await count(client, box, pid)) <= seen:
            assert now >= seen, "it began anew"
            await anyio.sleep(0.2)


async def test_ctrl_c_puts_machines_to_sleep_and_the_next_start_wakes_them(place: Path) -> None:
    async with serving(place) as server:
        async with server.client() as client:
            box, pid = await counting(client, "box")
            other = json.loads(await call(client, "create_sandbox", name="other", **SMALL))["id"]
            seen = await count(client, box, pid)
        await stop(server, signal.SIGINT)
        assert orphans(place / "instances") == {}
    assert said(place) == "2 machines are asleep; the next start wakes them."
    async with serving(place) as server, server.client() as client:
        for each in (box, other):
            await runs(client, each)
        await counts_on(client, box, pid, seen)


async def test_who_was_asleep_before_stays_asleep(place: Path) -> None:
    async with serving(place) as server:
        async with server.client() as client:
            box, _ = await counting(client, "box")
            other, _ = await counting(client, "other")
        cli(place, "sandbox", "sleep", box)
        await stop(server, signal.SIGINT)
    assert said(place) == "1 machine is asleep; the next start wakes it."
    async with serving(place) as server, server.client() as client:
        await runs(client, other)
        assert await status(client, box) == "snapshotted"
        assert len(orphans(place / "instances")) == 1


@pytest.mark.parametrize(
    ("word", "number", "end", "left"),
    [
        ("", signal.SIGTERM, "1 machine keeps running; the next start takes it over.", 1),
        ("keep", signal.SIGINT, "1 machine keeps running; the next start takes it over.", 1),
        ("sleep", signal.SIGTERM, "1 machine is asleep; the next start wakes it.", 0),
    ],
)
async def test_the_word_of_the_operator_counts_and_nothing_is_lost(
    place: Path, word: str, number: signal.Signals, end: str, left: int
) -> None:
    async with serving(place, CASEMATE_ON_STOP=word) as server:
        async with server.client() as client:
            box, pid = await counting(client, "box")
            seen = await count(client, box, pid)
        await stop(server, number)
        assert len(orphans(place / "instances")) == left
    assert said(place).startswith(end)
    async with serving(place) as server, server.client() as client:
        await counts_on(client, box, pid, seen)


async def test_a_second_ctrl_c_gives_up_waiting_and_loses_nothing(place: Path) -> None:
    counters: dict[str, tuple[int, int]] = {}
    async with serving(place) as server:
        async with server.client() as client:
            for number in range(4):
                box, pid = await counting(client, f"box-{number}")
                counters[box] = pid, await count(client, box, pid)
        os.kill(server.process.pid, signal.SIGINT)
        with anyio.fail_after(PATIENCE_S):
            while "Putting 4 machines to sleep" not in (place / "server.log").read_text():
                await anyio.sleep(0.005)
        await stop(server, signal.SIGINT)
        left = len(orphans(place / "instances"))
    counts = re.findall(r"(\d+) (?:machines? )?(?:(?:is|are) asleep|keeps? running)", said(place))
    assert sum(int(count) for count in counts) == 4, said(place)
    assert ("running" in said(place)) == (left > 0), said(place)
    async with serving(place) as server, server.client() as client:
        for box, (pid, seen) in counters.items():
            await runs(client, box)
            await counts_on(client, box, pid, seen)


async def test_a_call_in_flight_ends_and_its_machine_sleeps(place: Path) -> None:
    async with serving(place) as server:
        async with server.client() as client:
            box, _ = await counting(client, "box")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_call_that_ends_early, server, box)
            await _until_it_runs(server, box)
            await stop(server, signal.SIGINT)
    assert said(place) == "1 machine is asleep; the next start wakes it."
    async with serving(place) as server, server.client() as client:
        assert (await call(client, "execute_command", id=box, command="echo alive")).startswith("alive")


async def _call_that_ends_early(server: Server, box: str) -> None:
    wish = rpc(
        "tools/call", {"name": "execute_command", "arguments": {"id": box, "command": "sleep 99 # in flight"}}, 2
    )
    async with httpx.AsyncClient(headers={"x-api-key": server.key, **ACCEPT}, timeout=PATIENCE_S) as http:
        session = {"mcp-session-id": (await http.post(server.url, json=initialize())).headers["mcp-session-id"]}
        await http.post(server.url, json=rpc("notifications/initialized", request_id=None), headers=session)
        with contextlib.suppress(httpx.TransportError):  # the server goes away meanwhile
            await http.post(server.url, json=wish, headers=session)


async def _until_it_runs(server: Server, box: str) -> None:
    async with server.client() as client:
        with anyio.fail_after(PATIENCE_S):
            while "# in flight" not in await call(client, "list_processes", id=box):
                await anyio.sleep(0.1)
