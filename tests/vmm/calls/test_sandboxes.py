"""Changes of sandboxes that fail half-way."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import cast

import anyio
import pytest

from tests.vmm import still
from tests.vmm.network.taps.tap_host import RecordedTaps
from tests.waiting import until
from vmm.errors import Unavailable
from vmm.guest.link import GuestLink
from vmm.hypervisor.detect import Choice
from vmm.hypervisor.nic import Nic
from vmm.network.gateway import Gateway
from vmm.network.policy import Policy
from vmm.network.rules import HostRules
from vmm.network.taps.fast_path import CLOSED, FastPath
from vmm.sandboxes.sandbox import State

pytestmark = pytest.mark.anyio

ALICE = "a" * 24
ADDRESS = IPv4Address("10.41.0.2")
NIC = Nic(mac="02:00:0a:29:00:02", address=IPv4Interface("10.41.0.2/16"), gateway=IPv4Address("10.41.0.1"))


async def test_a_policy_that_cannot_be_applied_is_not_the_sandboxs(tmp_path: Path, choice: Choice) -> None:
    taps = RecordedTaps()
    gateway = Gateway(default=Policy.parse("none"), host=HostRules, clock=lambda: 0, taps=taps)
    async with (
        still.opened(tmp_path / "data", choice.driver, gateway=gateway) as there,
        anyio.create_task_group() as tasks,
    ):
        sandbox = await still.kept(there.collection, State.KILLED, network="example.com")

        async def network() -> str:
            return sandbox.network

        tasks.start_soon(gateway.serve, sandbox.id, network, cast("GuestLink", None), NIC)
        await until(lambda: taps.told)
        update = there.fleet.sandboxes.update
        taps.failing = [Unavailable("nft failed")]
        with pytest.raises(Unavailable, match="nft failed"):
            await update(ALICE, sandbox.id, network="internet", name="renamed")
        found = await there.fleet.sandboxes.get(ALICE, sandbox.id)
        assert (found.network, found.name) == ("example.com", "renamed")
        assert taps.now(ADDRESS) == CLOSED
        assert (await update(ALICE, sandbox.id, network="internet")).network == "internet"
        assert taps.now(ADDRESS) == FastPath(internet=True)
        tasks.cancel_scope.cancel()
