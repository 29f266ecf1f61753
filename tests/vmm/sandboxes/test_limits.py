from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vmm import still
from vmm.errors import HostExhausted, LimitExceeded
from vmm.hypervisor.detect import Choice
from vmm.sandboxes.limits import HostReserve, OwnerLimits
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec

REQUEST = SandboxSpec(name="box", cpu=2, mem=1024)
TERA = 1024 * 1024


def sandboxes(count: int, state: State = State.RUNNING) -> list[Sandbox]:
    return [replace(Sandbox.new(f"{n:024x}", "owner", REQUEST, now_ms=1), state=state) for n in range(count)]


def test_a_request_within_the_limits_passes() -> None:
    OwnerLimits(sandboxes=2, cpus=4, mem=2048).check(sandboxes(1), cpu=REQUEST.cpu, mem=REQUEST.mem)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (OwnerLimits(sandboxes=1), "sandboxes must be at most 1, got 1 existing and 1 more"),
        (OwnerLimits(cpus=3), "cpu must be at most 1 (2 of 3 are in use), got 2"),
        (OwnerLimits(mem=2047), "mem must be at most 1023 MiB (1024 of 2047 MiB are in use), got 1024 MiB"),
        (OwnerLimits(disk=20479), "disk must be at most 10239 MiB (10240 of 20479 MiB are in use), got 10240 MiB"),
    ],
)
def test_an_exceeded_limit_is_named(limits: OwnerLimits, named: str) -> None:
    with pytest.raises(LimitExceeded, match=re.escape(named)):
        limits.check(sandboxes(1), cpu=REQUEST.cpu, mem=REQUEST.mem)


def test_sleeping_and_dead_sandboxes_take_no_cpu_and_no_memory() -> None:
    OwnerLimits(cpus=2, mem=1024).check(
        [*sandboxes(3, State.ASLEEP), *sandboxes(3, State.KILLED)], cpu=REQUEST.cpu, mem=REQUEST.mem
    )


def test_deleted_sandboxes_do_not_count() -> None:
    OwnerLimits(sandboxes=1).check(sandboxes(5, State.DELETED), cpu=REQUEST.cpu, mem=REQUEST.mem)


@pytest.mark.parametrize(
    ("reserve", "short"),
    [
        (HostReserve(memory=TERA), "MiB of memory available"),
        (HostReserve(overcommit=0), "are promised to sandboxes"),
        (HostReserve(disk=1024 * TERA), "disk has"),
    ],
)
def test_an_exhausted_host_reports_which_resource_is_short(tmp_path: Path, reserve: HostReserve, short: str) -> None:
    with pytest.raises(HostExhausted, match=short) as refused:
        reserve.check([tmp_path], 0, REQUEST.mem)
    assert refused.value.retryable
    assert refused.value.hint


def test_a_host_with_free_resources_is_not_exhausted(tmp_path: Path) -> None:
    HostReserve(memory=1, machine=1, disk=1).check([tmp_path], 0, REQUEST.mem)


@pytest.mark.anyio
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system for the host's disk")
async def test_each_disk_that_is_written_to_has_its_reserve(tmp_path: Path, choice: Choice) -> None:
    data, machines = tmp_path / "data", tmp_path / "machines"
    reserve = HostReserve(memory=1, machine=1, disk=4, overcommit=1000)
    async with still.stored(data) as collection:
        sandbox = await still.kept(collection, State.ASLEEP)
        await collection.delete(sandbox.id)
    with still.mounted(machines, "size=2m"):
        async with still.opened(data, choice.driver, reserve=reserve, instances=machines) as there:
            with pytest.raises(HostExhausted, match=rf"disk has \d MiB free on {machines}; 4 MiB must stay free"):
                await there.inner("sandboxes._creator._admission").admit(sandbox)
            assert await there.store.find(sandbox.id) is None
    with still.mounted(data / "snapshots", "size=2m"):
        async with still.opened(data, choice.driver, reserve=reserve) as there:
            await there.inner("sandboxes._creator._admission").admit(sandbox)
            asleep = await still.kept(there.collection, State.ASLEEP)
            still.asleep(there.instances / asleep.machine, fingerprint=choice.driver.fingerprint)
            with pytest.raises(HostExhausted, match=f"free on {data / 'snapshots'}"):
                await there.fleet.snapshots.take(asleep.owner, asleep.id)
            assert list((data / "snapshots").iterdir()) == []
