"""A machine's network device, from the driver to the guest: each machine has its own address, and it is reached."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from tests.vmm.hypervisor.ladder import SIZE, cloned, cold, said, saved
from tests.vmm.hypervisor.tap_network import GATEWAY, PORT, TapNetwork, lacking, tap_network
from tests.waiting import PATIENCE_S, until
from vmm.errors import LinkError
from vmm.guest.values import Command
from vmm.hypervisor.base import Hypervisor
from vmm.hypervisor.process import orphans
from vmm.images.catalogue import ImageSet
from vmm.machines import suspend
from vmm.machines import template as building
from vmm.machines.checkpoint import Checkpoint
from vmm.machines.machine import Machine
from vmm.machines.reboot import boot_again
from vmm.machines.registry import MachineRegistry

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

_OWN = "10.41.0.2"
"""The address of the agent's device, in a machine that has no other."""
_REBOOT = "syscall 169, 0xfee1dead, 672274793, 0x01234567, 0"
"""reboot(2) as a Perl expression: in a PID namespace it ends the first process."""


@pytest.fixture(scope="module")
def network() -> Generator[TapNetwork]:
    if why := lacking():
        pytest.skip(f"No taps: {why}")
    with tap_network() as made:
        yield made


@pytest.fixture(scope="module")
def tapped(driver: Hypervisor, network: TapNetwork) -> Hypervisor:
    """The driver of a server that makes taps."""
    other = copy.copy(driver)
    other.nics = network
    return other


@pytest.fixture(scope="module")
def tapped_template(tapped: Hypervisor, image_set: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    root = tmp_path_factory.mktemp("templates")

    async def build() -> Checkpoint:
        return await building.build(
            tapped, image_set, root, "tapped", cpu=SIZE["cpu"], mem=SIZE["mem"], tsc_khz=building.guess_tsc_khz()
        )

    return anyio.run(build)


@pytest.fixture
async def clone(tapped: Hypervisor, tapped_template: Checkpoint, tmp_path: Path) -> AsyncGenerator[Machine]:
    async with cloned(tapped, tapped_template, tmp_path / "clone") as machine:
        yield machine
    assert orphans(tmp_path) == {}


async def check(machine: Machine, network: TapNetwork) -> str:
    """Check that a machine has what it was told, and that packets go both ways; its address."""
    nic = machine.running.nic
    assert nic is not None
    assert network.used[machine.directory] == nic
    assert await said(machine, "hostname -I; cat /sys/class/net/eth0/address") == f"{nic.address.ip} \n{nic.mac}"
    assert await network.answers(nic.address.ip)
    assert (str(nic.address.ip), nic.mac) in network.neighbours()
    assert await calling(machine, network) == str(nic.address.ip)
    return str(nic.address.ip)


async def calling(machine: Machine, network: TapNetwork) -> str:
    """Let a program in the guest connect to the gateway; the address that its connection comes from."""
    with network.listening() as listener:
        await machine.link.start(Command(shell=f"bash -c 'exec 3<>/dev/tcp/{GATEWAY.ip}/{PORT}; cat <&3'"))
        with anyio.fail_after(PATIENCE_S):
            await anyio.wait_readable(listener)
        accepted, (address, _) = listener.accept()
        accepted.close()
        return str(address)


async def test_a_machine_of_each_origin_has_an_address_of_its_own(
    tapped: Hypervisor, image_set: ImageSet, clone: Machine, network: TapNetwork, tmp_path: Path
) -> None:
    found = [await check(clone, network)]
    moment = await saved(clone, tmp_path / "moment")
    async with cloned(tapped, moment, tmp_path / "fork") as fork:
        found += [await check(fork, network), await check(clone, network)]
        await said(fork, "echo awake > /dev/shm/word")
        await suspend.fall_asleep(fork)
        assert fork.directory not in network.used
        woken = await suspend.wake(tapped, fork.directory)
        try:
            assert await said(woken, "cat /dev/shm/word") == "awake"
            found.append(await check(woken, network))
        finally:
            await woken.stop()
    async with cloned(tapped, moment, tmp_path / "own", own=True) as owner:
        found.append(await check(owner, network))
    async with cold(tapped, image_set, tmp_path / "cold") as machine:
        await machine.assign_identity("cold")
        found.append(await check(machine, network))
    assert len(set(found)) == len(found) - 1  # the clone was checked twice
    assert set(network.used) == {clone.directory}


async def test_a_machine_that_boots_again_gets_an_address_if_its_agent_can_use_one(
    tapped: Hypervisor, driver: Hypervisor, image_set: ImageSet, network: TapNetwork, tmp_path: Path
) -> None:
    async with cold(driver, image_set, tmp_path / "machine") as first:
        await first.assign_identity("first")
        assert first.running.nic is None
        assert await said(first, "hostname -I") == _OWN
    old = replace(first.hardware, takes_nic=False)
    async with anyio.create_task_group() as tasks:
        for hardware, has_nic in ((first.hardware, True), (old, False)):
            machines = MachineRegistry(tapped, tmp_path, tasks, _died)
            machine = await boot_again(tapped, machines, "machine", hardware, "", hostname="again")
            try:
                assert machine.hardware.nic == has_nic
                if has_nic:
                    await check(machine, network)
                else:
                    assert await said(machine, "hostname -I") == _OWN
            finally:
                await machine.stop()


async def _died(sandbox_id: str, name: str, reason: str) -> None:
    raise AssertionError(f"{sandbox_id} {name} {reason}")


async def test_without_taps_what_leaves_the_machine_goes_over_the_link(
    driver: Hypervisor, clone: Machine, network: TapNetwork, tmp_path: Path
) -> None:
    moment = await saved(clone, tmp_path / "moment")
    async with cloned(driver, moment, tmp_path / "other") as other:
        assert other.running.nic is None
        assert await said(other, "hostname -I; cat /sys/class/net/eth0/operstate") == f"{_OWN} \ndown"
        await said(other, "bash -c ': > /dev/tcp/192.0.2.1/80' &")
        await until(lambda: other.link.outbound(wait_ms=1000, again=True))
        # A fork of it, where there are taps, has an address.
        back = await saved(other, tmp_path / "back")
    async with cloned(clone.driver, back, tmp_path / "tapped") as tapped:
        await check(tapped, network)


async def test_a_server_without_taps_takes_over_a_machine_that_has_one(driver: Hypervisor, clone: Machine) -> None:
    adopted = await Machine.adopt(driver, clone.directory)
    assert adopted is not None
    assert adopted.misaddressed
    await adopted.readdress()
    assert await said(adopted, "hostname -I") == _OWN
    await adopted.link.aclose()
    again = await Machine.adopt(driver, clone.directory)
    assert again is not None
    assert not again.misaddressed
    await again.link.aclose()


async def test_a_sandbox_whose_first_process_ends_keeps_its_address(clone: Machine, network: TapNetwork) -> None:
    before = (await clone.link.ping()).nonce
    await clone.link.start(Command(argv=("perl", "-e", _REBOOT)))

    async def restarted() -> bool:
        try:
            return (await clone.link.ping()).nonce != before
        except LinkError:
            return False

    await until(restarted)
    await check(clone, network)
