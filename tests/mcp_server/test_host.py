"""The sandboxes that are processes of this host: they live as those in machines do, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mcp_server.host import ALICE, OneHost, OpenHost
from tests.vmm.guest.agents import living
from tests.vmm.hypervisor.host_driver import guest_of
from vmm.errors import Unavailable
from vmm.guest.values import Command
from vmm.machines.checkpoint import Checkpoint, write_private
from vmm.machines.machine import Machine

pytestmark = pytest.mark.anyio


async def test_a_machine_that_remembers_something_else_is_not_accepted(fleet_of_one: OneHost, tmp_path: Path) -> None:
    kept = await fleet_of_one.snapshots.take(ALICE, "box")
    saved = Checkpoint.load(tmp_path / "fleet" / "snapshots" / kept.id)
    assert saved is not None
    write_private(saved.state, "0" * 32)
    with pytest.raises(Unavailable, match="could not prove its memory"):
        await Machine.clone(fleet_of_one.box.driver, saved, tmp_path / "clone", hostname="clone")
    assert not (tmp_path / "clone").exists()


async def test_a_machine_that_is_saved_stands_still_until_it_goes_on(fleet_of_one: OneHost, tmp_path: Path) -> None:
    machine = fleet_of_one.box
    driver, running = machine.driver, machine.running
    assert await driver.problem(running) == ""
    await driver.save(running, tmp_path)
    assert await driver.problem(running) == "the machine is stopped"
    await driver.resume(running)
    assert await machine.link.answers()


async def test_nothing_that_ran_in_a_machine_outlives_it(open_host: OpenHost) -> None:
    async with open_host() as fleet:
        machine = fleet.box
        process, guests = machine.running.process, guest_of(machine.running.process)
        assert len(guests) == 1
        await machine.link.start(Command(argv=("sleep", "83.417")))
        assert living("83.417")
        await fleet.kill(ALICE, "box")
    assert not any(one.alive() for one in (process, *guests))
    assert not living("83.417")
