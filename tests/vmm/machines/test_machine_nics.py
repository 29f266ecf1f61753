"""What a server remembers of its machines' network devices, with processes in place of virtual machines."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.vmm import still
from tests.vmm.hypervisor.host_driver import HostDriver, host_driver
from tests.vmm.hypervisor.ladder import cloned, saved
from tests.vmm.hypervisor.numbered import Numbered
from tests.vmm.images.tiny_recipes import tiny_catalogue
from vmm.errors import Damaged, InvalidInput, Unavailable
from vmm.hypervisor.nic import Nic
from vmm.images.catalogue import ImageSet
from vmm.machines import suspend
from vmm.machines import template as building
from vmm.machines.checkpoint import Checkpoint
from vmm.machines.machine import Machine, MachineRecord

pytestmark = pytest.mark.anyio


@pytest.fixture
def nics() -> Numbered:
    return Numbered()


@pytest.fixture
async def driver(tmp_path: Path, nics: Numbered) -> AsyncGenerator[HostDriver]:
    async with host_driver(tmp_path) as made:
        made.nics = nics
        yield made


@pytest.fixture
async def images(tmp_path: Path) -> ImageSet:
    catalogue = tiny_catalogue(tmp_path / "images", tmp_path / "log")
    return await catalogue.ensure(catalogue.names()[0])


@pytest.fixture
async def template(driver: HostDriver, images: ImageSet, tmp_path: Path) -> Checkpoint:
    return await building.build(driver, images, tmp_path, "template", cpu=1, mem=64, tsc_khz=0)


async def test_each_machine_has_an_address_and_gives_it_back_when_it_ends(
    driver: HostDriver, nics: Numbered, template: Checkpoint, tmp_path: Path
) -> None:
    assert nics.used == {}  # the template's machine has ended
    assert template.hardware.nic
    async with cloned(driver, template, tmp_path / "one") as one, cloned(driver, template, tmp_path / "two") as two:
        assert nics.used == {one.directory: one.running.nic, two.directory: two.running.nic}
        assert one.running.nic != two.running.nic
    assert nics.used == {}


async def test_a_machine_that_sleeps_holds_no_address_and_gets_one_as_it_wakes(
    driver: HostDriver, nics: Numbered, template: Checkpoint, tmp_path: Path
) -> None:
    async with cloned(driver, template, tmp_path / "one") as machine:
        before = machine.running.nic
        await suspend.fall_asleep(machine)
        assert nics.used == {}
    woken = await suspend.wake(driver, tmp_path / "one")
    assert woken.running.nic == nics.used[woken.directory] != before
    record = MachineRecord.read(woken.directory)
    assert record is not None
    assert record.nic == woken.running.nic
    await woken.stop()


async def test_a_clone_that_refuses_its_address_is_destroyed(
    driver: HostDriver, nics: Numbered, template: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_prefix(nic: Nic) -> dict[str, str]:
        return {"mac": nic.mac, "address": str(nic.address.ip), "gateway": str(nic.gateway)}

    monkeypatch.setattr(Nic, "texts", without_prefix)
    with pytest.raises(InvalidInput, match="prefix"):
        await Machine.clone(driver, template, tmp_path / "one", hostname="one")
    assert nics.used == {}


async def test_a_clone_whose_agent_knows_no_network_device_is_destroyed(
    driver: HostDriver, nics: Numbered, template: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.vmm.hypervisor.host_driver._PROGRAM", _forgetful(tmp_path))
    with pytest.raises(Unavailable, match="prove its network address"):
        await Machine.clone(driver, template, tmp_path / "one", hostname="one")
    assert nics.used == {}
    assert not (tmp_path / "one").exists()


async def test_a_server_takes_over_a_machine_with_its_address(
    driver: HostDriver, nics: Numbered, template: Checkpoint, tmp_path: Path
) -> None:
    async with cloned(driver, template, tmp_path / "one") as machine:
        nics.used.clear()
        adopted = await Machine.adopt(driver, machine.directory)
        assert adopted is not None
        assert adopted.running.nic == machine.running.nic == nics.used[machine.directory]
        assert not adopted.misaddressed
        await adopted.link.aclose()


@pytest.mark.parametrize("later", [None, Numbered("10.99.0")], ids=["no taps", "another network"])
async def test_a_server_with_another_network_takes_over_a_machine_without_its_address(
    driver: HostDriver, template: Checkpoint, tmp_path: Path, later: Numbered | None
) -> None:
    async with cloned(driver, template, tmp_path / "one") as machine:
        driver.nics = later
        adopted = await Machine.adopt(driver, machine.directory)
        assert adopted is not None
        assert adopted.running.nic is None
        assert adopted.misaddressed
        await adopted.readdress()
        assert not adopted.misaddressed
        record = MachineRecord.read(machine.directory)
        assert record is not None
        assert record.nic is None
        await adopted.link.aclose()


async def test_a_checkpoint_says_whether_the_machine_had_a_network_device(
    driver: HostDriver, template: Checkpoint, tmp_path: Path
) -> None:
    async with cloned(driver, template, tmp_path / "one") as machine:
        kept = await saved(machine, tmp_path / "kept")
    for written in (kept, template):
        read = Checkpoint.load(written.directory)
        assert read is not None
        assert (read.hardware.nic, read.hardware.takes_nic) == (True, True)


async def test_a_template_with_a_network_device_has_another_name(driver: HostDriver, images: ImageSet) -> None:
    with_nic = building.template_key(driver, images, 1, 64)
    driver.nics = None
    without = building.template_key(driver, images, 1, 64)
    assert with_nic != without


def test_records_of_earlier_releases_have_no_network_device(tmp_path: Path) -> None:
    still.furnished(tmp_path / ("a" * 24), fingerprint="qemu 7.2")
    path = tmp_path / ("a" * 24) / "machine.json"
    values = json.loads(path.read_text())
    del values["nic"], values["hardware"]["nic"], values["hardware"]["takes_nic"], values["hardware"]["volumes"]
    path.write_text(json.dumps(values))
    record = MachineRecord.read(path.parent)
    assert record is not None
    assert record.nic is None
    assert (record.hardware.nic, record.hardware.takes_nic, record.hardware.volumes) == (False, False, False)


@pytest.mark.parametrize(
    "nic",
    [
        {"mac": "02:00:0a:29:00:02", "address": "10.41.0.2/16"},
        {"mac": "02:00:0a:29:00:02", "address": "10.41.0", "gateway": "10.41.0.1"},
    ],
)
def test_a_network_device_that_cannot_be_read_is_damage(tmp_path: Path, nic: dict[str, str]) -> None:
    still.furnished(tmp_path / ("a" * 24), fingerprint="qemu 7.2")
    still.change(tmp_path / ("a" * 24) / "machine.json", nic=nic)
    with pytest.raises(Damaged, match="its network device cannot be read"):
        MachineRecord.read(tmp_path / ("a" * 24))


def _forgetful(directory: Path) -> Path:
    """A machine's program whose agent is of an earlier release: it does not know `nic`."""
    program = directory / "forgetful.py"
    program.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(Path(__file__).parents[3])!r}]\n"
        "from tests.vmm.hypervisor import host_machine\n"
        "take = host_machine.RestoredIdentity.take\n"
        "host_machine.RestoredIdentity.take = lambda self, arguments: take(self, arguments) | {'nic': None}\n"
        "host_machine.main(sys.argv[1], sys.argv[2:])\n"
    )
    return program
