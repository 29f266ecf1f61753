"""What the settings say about the network applies to every sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server.app import open_gateway
from mcp_server.settings import Settings
from vmm.errors import InvalidInput

pytestmark = pytest.mark.anyio


async def test_addresses_that_the_operator_calls_the_hosts_own_are_closed(tmp_path: Path) -> None:
    gateway = await open_gateway(Settings(data=tmp_path, network_own=("203.0.113.5",)))
    with pytest.raises(InvalidInput, match=r"addresses of the host, got 203\.0\.113\.5/32"):
        gateway.check("203.0.113.5")
    gateway.check("203.0.113.6")
