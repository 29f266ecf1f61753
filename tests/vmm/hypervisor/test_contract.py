"""The contract of every driver, for machines of every origin; test_contract_saving.py tests saving."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from anyio.abc import ByteStream

from tests.vmm.hypervisor.ladder import cloned, said
from tests.waiting import PATIENCE_S
from vmm.errors import CasemateError, HostExhausted, LinkError, Unavailable
from vmm.guest.link import GuestLink
from vmm.guest.values import Command
from vmm.hypervisor.base import LOG, Hypervisor, Ram, Running
from vmm.hypervisor.process import orphans
from vmm.machines.checkpoint import Checkpoint
from vmm.machines.machine import Machine

# `kvm` marks the tests that are fast enough for every run in the emulated host; all of them can run there.
pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@pytest.mark.kvm
async def test_a_machine_runs_commands_keeps_files_and_has_no_network(any_machine: Machine) -> None:
    assert await said(any_machine, "echo kept > /root/file; sync; cat /root/file; nproc") == "kept\n1"
    assert await said(any_machine, "ip -o route show default 2>/dev/null | wc -l") == "0"
    assert await any_machine.driver.problem(any_machine.running) == ""


async def test_forty_concurrent_commands_run_exactly_once_each_time(any_machine: Machine) -> None:
    async def run(word: str) -> None:
        outcome = await any_machine.link.exec(Command(shell=f"echo {word} >> /root/ran"), wait_ms=60_000)
        assert outcome.exit_code == 0, outcome

    words = [f"{burst}-{number}" for burst in range(3) for number in range(40)]
    for burst in range(3):
        await any_machine.link.drop_connections()
        async with anyio.create_task_group() as tasks:
            for word in words[burst * 40 : (burst + 1) * 40]:
                tasks.start_soon(run, word)
    assert sorted((await said(any_machine, "cat /root/ran")).split()) == sorted(words)


async def test_a_machine_that_is_stopped_is_gone(any_machine: Machine) -> None:
    await any_machine.stop()
    assert not any_machine.running.process.alive()
    await any_machine.stop()
    with pytest.raises(LinkError):
        await any_machine.driver.dial(any_machine.running)
    assert await any_machine.driver.problem(any_machine.running)


async def test_a_killed_machine_is_noticed_at_once(any_machine: Machine) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_kill_soon, any_machine.running.process.pid)
            assert await any_machine.ended() == "its virtual machine was ended by signal 9 on the host"


async def _kill_soon(pid: int) -> None:
    await anyio.sleep(0.2)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("key", ["o", "b"], ids=["off", "reboot"])
@pytest.mark.kvm
async def test_a_machine_that_shuts_down_or_reboots_ends_its_process(machine_restored: Machine, key: str) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_press, machine_restored.link, key)
        with anyio.fail_after(PATIENCE_S):
            assert await machine_restored.ended()


async def _press(link: GuestLink, key: str) -> None:
    try:
        await link.exec(Command(shell=f"echo {key} > /proc/sysrq-trigger"), wait_ms=30_000)
    except LinkError:
        return


@pytest.mark.kvm
async def test_clones_share_their_templates_state_and_nothing_else(
    driver: Hypervisor, template: Checkpoint, machine_cloned: Machine, tmp_path: Path
) -> None:
    async with cloned(driver, template, tmp_path / "other") as other:
        first, second = await machine_cloned.link.ping(), await other.link.ping()
        assert first.nonce == second.nonce == template.nonce
        look = "hostname; cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1"
        assert not set((await said(machine_cloned, look)).splitlines()) & set((await said(other, look)).splitlines())
        await said(machine_cloned, "echo mine > /root/mine; sync")
        assert await said(other, "ls /root") == ""


async def test_a_clone_does_not_list_commands_of_its_template(machine_cloned: Machine) -> None:
    assert await machine_cloned.link.processes() == ()


@pytest.mark.kvm
async def test_a_clone_does_not_change_its_template(template: Checkpoint, machine_cloned: Machine) -> None:
    before = {path: path.stat().st_mtime_ns for path in (template.ram, template.disk)}
    await said(machine_cloned, "head -c 20M /dev/urandom > /dev/shm/x; cp /dev/shm/x /root/x; sync")
    assert {path: path.stat().st_mtime_ns for path in before} == before


async def test_the_clock_of_a_clone_is_right(machine_cloned: Machine) -> None:
    before = time.time()
    assert before - 3 <= int(await said(machine_cloned, "date +%s")) <= time.time() + 3


async def test_a_clone_that_is_slow_to_reach_is_accepted(
    driver: Hypervisor, template: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dial = driver.dial

    async def slowly(machine: Running) -> ByteStream:
        await anyio.sleep(2)
        return await dial(machine)

    monkeypatch.setattr("vmm.machines.machine._CLOCK_TOLERANCE_NS", 10**9)
    monkeypatch.setattr(driver, "dial", slowly)
    async with cloned(driver, template, tmp_path / "slow") as machine:
        assert await said(machine, "hostname") == "slow"


async def test_a_clone_with_a_wrong_clock_is_destroyed(
    driver: Hypervisor, template: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.guest.link.time", SimpleNamespace(time_ns=lambda: time.time_ns() + 60 * 10**9))
    with pytest.raises(Unavailable, match="prove its clock"):
        async with cloned(driver, template, tmp_path / "ahead"):
            pass
    assert orphans(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


async def test_a_running_machine_is_found_by_its_directory(driver: Hypervisor, machine_cloned: Machine) -> None:
    adopted = await Machine.adopt(driver, machine_cloned.running.directory)
    assert adopted is not None
    assert await said(adopted, "hostname") == "clone"
    await adopted.link.aclose()


async def test_a_missing_state_is_an_error_and_leaves_nothing_behind(
    driver: Hypervisor, template: Checkpoint, tmp_path: Path
) -> None:
    place = tmp_path / "broken"
    place.mkdir()
    with pytest.raises((CasemateError, OSError)):
        await driver.restore(
            place,
            template.hardware,
            ram=Ram(path=template.ram, private=True),
            disk=tmp_path / "missing",
            state=tmp_path / "missing",
        )
    assert orphans(tmp_path) == {}


@pytest.mark.kvm
async def test_a_disk_that_cannot_be_filled_is_an_error_and_leaves_nothing_behind(
    driver: Hypervisor, template: Checkpoint, tmp_path: Path
) -> None:
    async def full() -> None:
        raise HostExhausted("The host's disk is full")

    place = tmp_path / "machine"
    place.mkdir()
    with pytest.raises(HostExhausted, match="disk is full"):
        await driver.restore(
            place,
            template.hardware,
            ram=Ram(path=template.ram, private=True),
            disk=place / "disk",
            state=template.state,
            fill=full,
        )
    assert orphans(tmp_path) == {}


async def test_a_directory_path_may_be_longer_than_a_socket_address(
    driver: Hypervisor, template: Checkpoint, tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with cloned(driver, template, deep / "below") as machine:
        assert await said(machine, "hostname") == "below"


async def test_a_program_that_cannot_start_is_reported(
    driver: Hypervisor, template: Checkpoint, tmp_path: Path
) -> None:
    place = tmp_path / "machine"
    place.mkdir()
    broken = type(driver).__new__(type(driver))
    broken.__dict__.update({**driver.__dict__, "_binary": "/bin/false"})
    with pytest.raises(Unavailable, match="has ended"):
        await broken.restore(
            place,
            template.hardware,
            ram=Ram(path=template.ram, private=True),
            disk=template.disk,
            state=template.state,
        )
    assert (place / LOG).exists()
    assert orphans(tmp_path) == {}
