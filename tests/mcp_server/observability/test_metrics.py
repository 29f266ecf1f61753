"""Who may read the metrics, and what they say."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from mcp_server.observability.metrics import Meters
from mcp_server.scrape import metrics_route
from storage.errors import StoreUnavailable
from tests.mcp_server.edge import serving
from vmm.errors import Unavailable
from vmm.sandboxes.sandbox import State
from vmm.sandboxes.usage import Usage

pytestmark = pytest.mark.anyio

TOKEN = "a-token-for-the-scraper"


class Host:
    """What the metrics ask for, and how it fails."""

    def __init__(self) -> None:
        self.down = False
        self.hangs = False

    async def survey(self) -> Mapping[State, Usage]:
        await self.ping()
        if self.down:
            raise Unavailable("no")
        usage = {state: Usage() for state in State}
        return usage | {
            State.RUNNING: Usage(sandboxes=3, cpus=4, mem=2048, disk=30),
            State.ASLEEP: Usage(sandboxes=2, disk=20),
        }

    async def ping(self) -> None:
        if self.hangs:
            await anyio.sleep_forever()
        if self.down:
            raise StoreUnavailable("away")


@pytest.fixture
def machine() -> Host:
    return Host()


@asynccontextmanager
async def scraped(meters: Meters, machine: Host, token: str = "") -> AsyncGenerator[httpx.AsyncClient]:
    app = Starlette(routes=[metrics_route(meters, survey=machine.survey, ping=machine.ping, token=token)])
    async with serving(app) as edge, edge.http() as client:
        yield client


async def test_a_scrape_gathers_what_the_host_has(meters: Meters, machine: Host) -> None:
    async with scraped(meters, machine) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    for line in (
        'casemate_sandboxes{state="running"} 3.0',
        'casemate_sandboxes{state="asleep"} 2.0',
        'casemate_sandboxes{state="error"} 0.0',
        "casemate_store_up 1.0",
        "casemate_fleet_up 1.0",
        "voidrun_host_allocated_vcpus 4.0",
        "voidrun_host_allocated_mem_bytes 2.147483648e+09",
        "voidrun_host_allocated_disk_bytes 5.24288e+07",
        'casemate_build_info{commit="",version="test"} 1.0',
    ):
        assert line in answer.text
    assert "process_resident_memory_bytes" in answer.text


async def test_connections_are_counted_by_decision_and_never_fewer(meters: Meters, machine: Host) -> None:
    counts = [(0, 0), (2, 1), (2, 1), (3, 5)]
    app = Starlette(
        routes=[
            metrics_route(meters, survey=machine.survey, ping=machine.ping, connections=lambda: counts.pop(0)),
        ]
    )
    async with serving(app) as edge, edge.http() as http:
        texts = [(await http.get("/metrics")).text for _ in range(4)]
    for text, (allowed, refused) in zip(texts, [(0, 0), (2, 1), (2, 1), (3, 5)], strict=True):
        assert f'casemate_network_connections_total{{decision="allowed"}} {allowed}.0' in text
        assert f'casemate_network_connections_total{{decision="refused"}} {refused}.0' in text


@pytest.mark.parametrize("trouble", ["down", "hangs"])
async def test_a_host_in_trouble_is_told_and_old_figures_are_gone(
    meters: Meters, machine: Host, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.scrape._DEADLINE_S", 0.2)
    async with scraped(meters, machine) as http:
        await http.get("/metrics")
        setattr(machine, trouble, True)
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert "casemate_store_up 0.0" in answer.text
    assert "casemate_fleet_up 0.0" in answer.text
    assert 'casemate_sandboxes{state="running"}' not in answer.text


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_without_a_token_only_this_machine_may_read_and_no_proxy_for_others(
    meters: Meters, machine: Host, header: str
) -> None:
    async with scraped(meters, machine) as http:
        answer = await http.get("/metrics", headers={header: "192.0.2.1"})
    assert answer.status_code == 404
    assert "casemate_" not in answer.text


async def test_without_a_token_other_machines_get_nothing(meters: Meters, machine: Host) -> None:
    app = Starlette(routes=[metrics_route(meters, survey=machine.survey, ping=machine.ping)])
    for address, status in (
        ("192.0.2.1", 404),
        ("::1", 200),
        ("127.0.0.9", 200),
        ("::ffff:127.0.0.1", 200),
        ("x", 404),
    ):
        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
            assert (await client.get("/metrics")).status_code == status


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \xe9"])
async def test_with_a_token_nobody_reads_without_it(meters: Meters, machine: Host, given: str) -> None:
    async with scraped(meters, machine, TOKEN) as http:
        headers = [(b"authorization", given.encode("latin-1"))] if given else []
        answer = await http.get("/metrics", headers=headers)
        assert answer.status_code == 401
        assert "www-authenticate" not in answer.headers
        assert TOKEN not in answer.text


async def test_with_the_token_anybody_reads(meters: Meters, machine: Host) -> None:
    async with scraped(meters, machine, TOKEN) as http:
        headers = {"authorization": f"bearer {TOKEN}", "x-forwarded-for": "192.0.2.1"}
        assert (await http.get("/metrics", headers=headers)).status_code == 200


async def test_two_applications_do_not_share_their_meters(machine: Host) -> None:
    one, other = Meters(version="1"), Meters(version="1")
    one.request("GET", "x", 200, 0.1)
    assert b'route="x"' in one.text()
    assert b'route="x"' not in other.text()


def test_machines_are_counted_by_how_they_came_by_their_memory(meters: Meters) -> None:
    meters.started("mapped")
    meters.started("mapped")
    meters.started("own")
    text = meters.text().decode()
    for line in ('mapped"} 2.0', 'own"} 1.0', 'copied"} 0.0', 'booted"} 0.0'):
        assert f'casemate_machines_started_total{{memory="{line}' in text
    meters.started("found in a field")
    assert 'casemate_machines_started_total{memory="other"} 1.0' in meters.text().decode()


def test_every_name_is_ours_or_voidruns_or_of_the_process(meters: Meters) -> None:
    names = {family.name for family in text_string_to_metric_families(meters.text().decode())}
    assert {"voidrun_http_requests", "voidrun_sbx_operation_requests", "casemate_tool_calls"} <= names
    assert all(re.match(r"(voidrun|casemate|process|python)_", name) for name in names)
