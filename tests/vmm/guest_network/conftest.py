"""The world around sandboxes, on both ways: carried by the server, and with a tap in a network namespace."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from tests.conftest import Opener
from tests.vmm.guest_network.boxes import ALICE
from tests.vmm.network.taps.namespaces import Namespace, lacking
from tests.vmm.network_world import METADATA, OTHER, PRIVATE, SHARED, SITE, World, world
from tests.vmm.tapped_host import host_and_internet, tapped_host
from vmm.fleet import Fleet
from vmm.hypervisor.detect import Choice
from vmm.hypervisor.process import orphans


@pytest.fixture(params=["user mode", "taps"])
def outside(request: pytest.FixtureRequest) -> Iterator[Namespace | None]:
    """Where the internet is: the rest of the test then runs on a host beside it. None: on the loopback."""
    if request.param == "user mode":
        yield None
        return
    if reason := lacking():
        pytest.skip(reason)
    with host_and_internet(SITE, SHARED, OTHER, PRIVATE, METADATA) as internet:
        yield internet


@pytest.fixture
async def net(outside: Namespace | None) -> AsyncGenerator[World]:
    if outside is None:
        async with world() as made:
            yield made
        return
    async with tapped_host(outside) as host, world(host) as made:
        yield made
        assert len(host.taps) == 0


@pytest.fixture
async def fleet(net: World, open_fleet: Opener, data: Path, choice: Choice) -> AsyncGenerator[Fleet]:
    """A fleet in that world; its sandboxes are gone after the test."""
    driver = net.host.driver if net.host else choice.driver
    async with open_fleet(gateway=net.gateway(packages=("www.example.com",)), driver=driver) as fleet:
        yield fleet
        for sandbox in (await fleet.sandboxes.list(ALICE, limit=100)).items:
            await fleet.sandboxes.delete(ALICE, sandbox.id)
        assert orphans(data / "instances") == {}
