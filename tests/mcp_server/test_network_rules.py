"""What the settings say about the network applies to every sandbox."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_server.guest_network import open_guest_network
from mcp_server.settings import Settings
from tests.vmm.network.taps.namespaces import Namespace, lacking, namespace
from vmm.errors import Conflict, InvalidInput, Unavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host of the test's own."""
    if why := lacking():
        pytest.skip(f"No taps: {why}")
    with namespace() as made, made.entered():
        yield made


async def test_addresses_that_the_operator_calls_the_hosts_own_are_closed(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, network_own=("203.0.113.5",), network_way="user")
    async with open_guest_network(settings) as network:
        with pytest.raises(InvalidInput, match=r"addresses of the host, got 203\.0\.113\.5/32"):
            network.gateway.check("203.0.113.5")
        network.gateway.check("203.0.113.6")


async def test_a_server_that_may_not_make_taps_says_so_and_uses_user_mode(tmp_path: Path) -> None:
    async with open_guest_network(Settings(data=tmp_path, network_way="user")) as network:
        assert (network.taps, network.way) == (None, "user mode")
    foreign = Settings(data=tmp_path, bridge_name="lo")
    async with open_guest_network(foreign) as network:
        assert network.taps is None
        assert network.way.startswith("user mode (")
    with pytest.raises((Conflict, Unavailable)):
        async with open_guest_network(foreign.model_copy(update={"network_way": "taps"})):
            pytest.fail("unreachable")


async def test_a_server_that_may_makes_taps_and_leaves_the_bridge_to_machines_that_run_on(
    tmp_path: Path, host: Namespace
) -> None:
    for _ in range(2):
        async with open_guest_network(Settings(data=tmp_path)) as network:
            assert network.taps is not None
            assert network.way == "a tap for each sandbox on the bridge casemate0, 10.41.0.1/16"
            assert network.gateway.way_of("0" * 24).kind == "taps"
        assert "casemate0" in {name for _, name in socket.if_nameindex()}
