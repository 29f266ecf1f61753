"""Machines of each origin for the drivers' contract tests: booted, cloned, restored, woken."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from tests.vmm.hypervisor.ladder import SIZE, cloned, cold, said, saved
from vmm.hypervisor.base import Hypervisor, Memory
from vmm.hypervisor.confinement import Confinement
from vmm.hypervisor.detect import Driver, NoDriver, drivers, kvm
from vmm.hypervisor.process import orphans
from vmm.images.catalogue import ImageSet
from vmm.machines import template as building
from vmm.machines.checkpoint import Checkpoint
from vmm.machines.machine import Machine


@pytest.fixture(scope="session", params=["qemu", "cloud-hypervisor"])
def driver(request: pytest.FixtureRequest) -> Hypervisor:
    """Each driver that this host can run, with all of the host's confinement."""

    async def find() -> dict[str, Driver | NoDriver]:
        return await drivers(await Confinement.open(kvm=kvm().usable))

    found = anyio.run(find)[request.param]
    if isinstance(found, NoDriver):
        if os.environ.get("CASEMATE_REQUIRE_KVM") and os.environ.get("CASEMATE_INSIDE_KVM_HOST"):
            pytest.fail(found.reason)
        pytest.skip(found.reason)
    return found


@pytest.fixture(scope="session")
def template(driver: Hypervisor, image_set: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A machine that was booted and saved."""
    root = tmp_path_factory.mktemp("templates")

    async def build() -> Checkpoint:
        return await building.build(
            driver, image_set, root, "template", cpu=SIZE["cpu"], mem=SIZE["mem"], tsc_khz=building.guess_tsc_khz()
        )

    return anyio.run(build)


@pytest.fixture(scope="session")
def moment(driver: Hypervisor, template: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A clone that was saved and ended, with a word in its memory that is in no template and on no disk."""
    root = tmp_path_factory.mktemp("moments")

    async def save() -> Checkpoint:
        async with cloned(driver, template, root / "clone") as machine:
            await said(machine, "echo only in memory > /dev/shm/word")
            return await saved(machine, root / "moment")

    return anyio.run(save)


@pytest.fixture
async def machine_cloned(driver: Hypervisor, template: Checkpoint, tmp_path: Path) -> AsyncGenerator[Machine]:
    async with cloned(driver, template, tmp_path / "clone") as machine:
        yield machine
    assert orphans(tmp_path) == {}


@pytest.fixture
async def machine_restored(driver: Hypervisor, moment: Checkpoint, tmp_path: Path) -> AsyncGenerator[Machine]:
    async with cloned(driver, moment, tmp_path / "restored") as machine:
        assert await said(machine, "cat /dev/shm/word") == "only in memory"
        yield machine
    assert orphans(tmp_path) == {}


@pytest.fixture(params=["cold", "cloned", "restored", "woken"])
async def any_machine(
    request: pytest.FixtureRequest,
    driver: Hypervisor,
    image_set: ImageSet,
    template: Checkpoint,
    moment: Checkpoint,
    tmp_path: Path,
) -> AsyncGenerator[Machine]:
    """A machine of each origin: everything must work on all of them."""
    place = tmp_path / "machine"
    made, memory = {
        "cold": (lambda: cold(driver, image_set, place), Memory.BOOTED),
        "cloned": (lambda: cloned(driver, template, place), Memory.MAPPED),
        "restored": (lambda: cloned(driver, moment, place), Memory.MAPPED),
        "woken": (lambda: cloned(driver, moment, place, own=True), Memory.OWN),
    }[request.param]
    async with made() as machine:
        assert machine.running.memory is memory
        if request.param in {"restored", "woken"}:
            assert await said(machine, "cat /dev/shm/word") == "only in memory"
        yield machine
    assert orphans(tmp_path) == {}
