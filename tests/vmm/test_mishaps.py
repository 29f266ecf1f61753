"""Mishaps of single sandboxes on real machines: an upgraded hypervisor, a death at a bad moment, files in the way."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from tests.vmm import still
from vmm.errors import CasemateError, Conflict, Damaged, HostExhausted, NotFound
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.hypervisor.detect import Choice
from vmm.hypervisor.process import orphans
from vmm.sandboxes.host_memory import read_memory
from vmm.sandboxes.limits import HostReserve
from vmm.sandboxes.sandbox import State
from vmm.sandboxes.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALICE = "a" * 24
SPEC = SandboxSpec(name="box", image="minimal", mem=256)
Opener = Callable[..., AbstractAsyncContextManager[Fleet]]


async def said(fleet: Fleet, ref: str, line: str) -> str:
    outcome = await fleet.guest.exec(ALICE, ref, Command(shell=line), wait_ms=30_000)
    assert outcome.exit_code == 0, outcome
    return outcome.stdout.data().decode().strip()


async def test_saves_of_an_adopted_machine_record_the_old_hypervisor_after_an_upgrade(
    open_fleet: Opener, data: Path, choice: Choice
) -> None:
    upgraded = copy.copy(choice.driver)
    upgraded.fingerprint = "another 1.0"
    async with open_fleet() as fleet:
        await fleet.sandboxes.create(ALICE, SPEC)
        await said(fleet, "box", "echo ram > /dev/shm/nonce")
    async with open_fleet(driver=upgraded) as fleet:
        assert await said(fleet, "box", "cat /dev/shm/nonce") == "ram"
        snapshot = await fleet.snapshots.take(ALICE, "box", name="kept")
        assert snapshot.driver == choice.driver.fingerprint
        saved = json.loads((data / "snapshots" / snapshot.id / "saved.json").read_text())
        assert saved["fingerprint"] == choice.driver.fingerprint
        refusal = "and loads only there; this host runs another 1.0"
        with pytest.raises(Conflict, match=refusal):
            await fleet.snapshots.restore(ALICE, "box", "kept")
        await fleet.lifecycle.sleep(ALICE, "box")
        with pytest.raises(Conflict, match=refusal):
            await fleet.lifecycle.wake(ALICE, "box")
    async with open_fleet() as fleet:
        assert await said(fleet, "box", "cat /dev/shm/nonce") == "ram"
        await fleet.snapshots.restore(ALICE, "box", "kept")
        assert await said(fleet, "box", "cat /dev/shm/nonce") == "ram"
        await fleet.sandboxes.delete(ALICE, "box")
        await fleet.snapshots.delete(ALICE, "kept")


async def test_a_machine_that_dies_during_a_restore_keeps_the_memory_reservation(
    open_fleet: Opener, data: Path
) -> None:
    overcommit = 300 / read_memory().total  # MiB: room for one sandbox, not for two
    async with open_fleet(reserve=HostReserve(overcommit=overcommit)) as fleet:
        sandbox = await fleet.sandboxes.create(ALICE, SPEC)
        await fleet.snapshots.take(ALICE, "box", name="kept")
        (old,) = orphans(data / "instances")[data / "instances" / sandbox.machine]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fleet.snapshots.restore, ALICE, "box", "kept")
            with anyio.fail_after(30):
                while len(list((data / "instances").iterdir())) < 2:
                    await anyio.sleep(0.001)
            os.kill(old.pid, signal.SIGKILL)
        found = await fleet.sandboxes.get(ALICE, "box")
        assert (found.state, found.machine != sandbox.machine) == (State.RUNNING, True)
        with pytest.raises(HostExhausted, match=r"\(256 of \d+ MiB are promised to sandboxes\)"):
            await fleet.sandboxes.create(ALICE, replace(SPEC, name="more"))
        assert await said(fleet, "box", "hostname") == "box"
        await fleet.sandboxes.delete(ALICE, "box")
        await fleet.sandboxes.create(ALICE, SPEC)
        await fleet.sandboxes.delete(ALICE, "box")
        for snapshot in await fleet.snapshots.list(ALICE):
            await fleet.snapshots.delete(ALICE, snapshot.id)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount what is in the way")
async def test_a_sandbox_that_cannot_be_suspended_does_not_delay_others(fleet: Fleet, data: Path) -> None:
    boxes = [await fleet.sandboxes.create(ALICE, replace(SPEC, name=name)) for name in ("one", "two", "three")]
    with still.mounted(data / "instances" / boxes[1].machine / "asleep.draft", "size=1m"):
        with pytest.raises(CasemateError, match="The host failed at a machine's memory: File exists"):
            await fleet.lifecycle.sleep(ALICE, "two")
        assert await said(fleet, "two", "hostname") == "two"
        assert await fleet.lifecycle.sleep_all() == 2
        states = [(await fleet.sandboxes.get(ALICE, box.id)).state for box in boxes]
        assert states == [State.ASLEEP, State.RUNNING, State.ASLEEP]
    assert await fleet.lifecycle.sleep_all() == 1


async def test_a_sleeping_sandbox_with_a_damaged_record_starts_from_its_disk_with_a_reason(
    fleet: Fleet, data: Path
) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    await said(fleet, "box", "echo kept > /root/file; sync")
    await fleet.lifecycle.sleep(ALICE, "box")
    still.change(data / "instances" / sandbox.machine / "machine.json", secret=None)
    with pytest.raises(Damaged, match=r"it has no secret. Start the sandbox"):
        await fleet.guest.exec(ALICE, "box", Command(shell="true"), wait_ms=1000)
    revived = await fleet.lifecycle.revive(ALICE, "box")
    assert (revived.state, revived.memory) == (State.RUNNING, "booted")
    assert "started from its disk, because " in revived.reason
    assert "machine.json is damaged: it has no secret" in revived.reason
    assert await said(fleet, "box", "cat /root/file; hostname") == "kept\nbox"
    await fleet.lifecycle.sleep(ALICE, "box")
    assert await said(fleet, "box", "cat /root/file") == "kept"


async def test_a_start_skips_a_damaged_snapshot(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    for name in ("old", "new"):
        await said(fleet, "box", f"echo {name} > /dev/shm/nonce")
        await fleet.snapshots.take(ALICE, "box", name=name)
    with (data / "snapshots" / (await fleet.snapshots.get(ALICE, "new")).id / "ram").open("ab") as ram:
        ram.write(b"more")
    (process,) = orphans(data / "instances")[data / "instances" / sandbox.machine]
    os.kill(process.pid, signal.SIGKILL)
    with anyio.fail_after(20):
        while (await fleet.sandboxes.get(ALICE, "box")).state is not State.KILLED:
            await anyio.sleep(0.02)
    assert "newest snapshot, old (" in (await fleet.lifecycle.revive(ALICE, "box")).reason
    assert await said(fleet, "box", "cat /dev/shm/nonce") == "old"
    for snapshot in await fleet.snapshots.list(ALICE):
        await fleet.snapshots.delete(ALICE, snapshot.id)


async def test_a_sandbox_that_is_deleted_during_its_creation_is_reported_and_leaves_nothing_behind(
    fleet: Fleet, data: Path
) -> None:
    await fleet.sandboxes.create(ALICE, replace(SPEC, name="first"))  # from here on there is a template
    await fleet.sandboxes.delete(ALICE, "first")
    errors: list[str] = []

    async def create() -> None:
        try:
            await fleet.sandboxes.create(ALICE, SPEC)
        except NotFound as error:
            errors.append(error.message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create)
        with anyio.fail_after(30):
            while (await fleet.sandboxes.list(ALICE)).total == 0:
                await anyio.sleep(0.001)
        await fleet.sandboxes.delete(ALICE, "box")
    (error,) = errors
    assert error.endswith("was deleted while it was created")
    assert list((data / "instances").iterdir()) == []
    assert orphans(data / "instances") == {}
