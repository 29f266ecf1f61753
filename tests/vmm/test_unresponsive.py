"""Sandboxes whose guest does not answer are shown so, and can be restarted whatever it does, on real machines."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import anyio
import pytest

from tests.vmm.lifecycle.test_lifecycle import ALICE, SPEC, hypervisors, kill, run
from vmm.errors import CasemateError, Conflict, LinkTimeout, NotFound, Unavailable
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.hypervisor.process import orphans
from vmm.machines.machine import MachineRecord
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

Opener = Callable[..., AbstractAsyncContextManager[Fleet]]


@contextmanager
def frozen(data: Path, sandbox: Sandbox) -> Generator[None]:
    """For the length of a block neither the guest nor its hypervisor does anything; they may be ended in it."""
    (process,) = orphans(data / "instances")[data / "instances" / sandbox.machine]
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if process.alive():
            os.kill(process.pid, signal.SIGCONT)


def damage(saved: Path) -> None:
    for file in saved.iterdir() if saved.is_dir() else (saved,):
        file.write_bytes(b"damaged")


async def until(fleet: Fleet, ref: str, state: State) -> Sandbox:
    with anyio.fail_after(60):
        while (found := await fleet.sandboxes.get(ALICE, ref)).state is not state:
            await anyio.sleep(0.05)
    return found


@pytest.mark.kvm
async def test_an_unresponsive_sandbox_is_reported_and_can_be_restarted_from_its_disk(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo kept > /root/file; cp /etc/machine-id /root/id; sync; echo lost > /dev/shm/nonce")
    ended: list[str] = []
    restarted: list[Sandbox] = []

    async def under_way() -> None:
        with pytest.raises(CasemateError) as broken:
            await fleet.guest.exec(ALICE, "box", Command(shell="touch /root/begun; sleep 1000"), wait_ms=1_000_000)
        ended.append(str(broken.value))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(under_way)
        await run(fleet, "box", "until test -e /root/begun; do sleep 0.05; done")
        with frozen(data, sandbox):
            with pytest.raises(LinkTimeout, match="restart_sandbox"):
                await fleet.guest.exec(ALICE, "box", Command(shell="true"), wait_ms=0)
            shown = await fleet.sandboxes.get(ALICE, "box")
            assert shown.state is State.UNRESPONSIVE
            assert "has not answered for" in shown.reason
            assert "restart_sandbox" in shown.reason
            assert (await fleet.sandboxes.list(ALICE)).items[0].state is State.UNRESPONSIVE
            assert (await fleet.sandboxes.survey())[State.UNRESPONSIVE].sandboxes == 1
            assert (await fleet.sandboxes.usage(ALICE)).mem == SPEC.mem
            with pytest.raises(Conflict, match="is unresponsive"):
                await fleet.snapshots.fork(ALICE, "box")
            for call in (fleet.lifecycle.revive, fleet.lifecycle.wake):
                with pytest.raises(Conflict, match=r"running already, but .*restart_sandbox"):
                    await call(ALICE, "box")
            restarted.append(await fleet.lifecycle.restart(ALICE, "box"))
    assert len(ended) == 1
    assert (restarted[0].state, restarted[0].memory) == (State.RUNNING, "booted")
    assert "restarted from its disk: its memory and running processes are lost" in restarted[0].reason
    assert hypervisors(data) == 1
    assert await run(fleet, "box", "cat /root/file; ls /dev/shm; cmp /root/id /etc/machine-id && echo same") == (
        "kept\nsame"
    )
    assert await fleet.sandboxes.get(ALICE, "box") == restarted[0]
    await fleet.lifecycle.sleep(ALICE, "box")
    assert await run(fleet, "box", "cat /root/file") == "kept"


async def test_an_unresponsive_sandbox_restarts_from_its_newest_snapshot(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    with pytest.raises(Conflict, match="no snapshot"):
        await fleet.lifecycle.restart(ALICE, "box", from_snapshot=True)
    await run(fleet, "box", "echo then > /dev/shm/nonce; echo then > /root/file")
    await fleet.snapshots.take(ALICE, "box", name="kept")
    await run(fleet, "box", "echo later > /dev/shm/nonce; echo later > /root/file")
    with frozen(data, sandbox):
        restarted = await fleet.lifecycle.restart(ALICE, "box", from_snapshot=True)
    assert "newest snapshot, kept (" in restarted.reason
    assert hypervisors(data) == 1
    assert await run(fleet, "box", "cat /dev/shm/nonce /root/file") == "then\nthen"
    for snapshot in await fleet.snapshots.list(ALICE):
        await fleet.snapshots.delete(ALICE, snapshot.id)


async def test_an_unresponsive_sandbox_without_calls_is_noticed_stays_awake_and_can_recover(
    open_fleet: Opener, data: Path
) -> None:
    async with open_fleet(sweep_s=0.1) as fleet:
        sandbox = await fleet.sandboxes.create(ALICE, SandboxSpec(name="box", image="minimal", mem=256, idle_s=1))
        await fleet.guest.start(ALICE, "box", Command(shell="sleep 1000"))
        with frozen(data, sandbox):
            await until(fleet, "box", State.UNRESPONSIVE)
        assert (await until(fleet, "box", State.RUNNING)).reason == ""
        await fleet.sandboxes.delete(ALICE, "box")


async def test_a_sleeping_or_killed_sandbox_restarts_from_its_disk(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo kept > /root/file; echo lost > /dev/shm/nonce")
    await fleet.lifecycle.sleep(ALICE, "box")
    assert (await fleet.lifecycle.restart(ALICE, "box")).state is State.RUNNING
    assert await run(fleet, "box", "cat /root/file; ls /dev/shm") == "kept"
    asleep = await fleet.lifecycle.sleep(ALICE, "box")
    damage(data / "instances" / asleep.machine / "asleep" / "state")
    assert (await fleet.lifecycle.restart(ALICE, "box")).state is State.RUNNING
    await kill(fleet, data, await fleet.sandboxes.get(ALICE, "box"))
    assert (await fleet.lifecycle.restart(ALICE, "box")).state is State.RUNNING
    assert await run(fleet, "box", "cat /root/file") == "kept"


async def test_a_guests_unwritten_data_is_flushed_before_a_restart(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo fresh > /root/file")
    one: list[Sandbox] = []
    other: list[Sandbox] = []

    async def restart(result: list[Sandbox]) -> None:
        result.append(await fleet.lifecycle.restart(ALICE, "box"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(restart, one)
        tasks.start_soon(restart, other)
    assert one == other
    assert await run(fleet, "box", "cat /root/file") == "fresh"


async def test_a_failed_restart_is_reported_and_keeps_the_snapshots(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo kept > /dev/shm/nonce")
    await fleet.snapshots.take(ALICE, "box", name="kept")
    record = MachineRecord.read(data / "instances" / sandbox.machine)
    assert record is not None
    record.hardware.initramfs.unlink()
    with pytest.raises(Unavailable, match=r"is killed: it could not be restarted .* Restore one of its snapshots"):
        await fleet.lifecycle.restart(ALICE, "box")
    killed = await fleet.sandboxes.get(ALICE, "box")
    assert killed.state is State.KILLED
    assert "could not be restarted from its disk" in killed.reason
    assert hypervisors(data) == 0
    assert (await fleet.lifecycle.restart(ALICE, "box", from_snapshot=True)).state is State.RUNNING
    assert await run(fleet, "box", "cat /dev/shm/nonce") == "kept"
    for snapshot in await fleet.snapshots.list(ALICE):
        await fleet.snapshots.delete(ALICE, snapshot.id)


async def test_a_sandbox_that_is_deleted_during_a_restart_is_gone(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    refused: list[CasemateError] = []

    async def restart() -> None:
        with pytest.raises(CasemateError) as error:
            await fleet.lifecycle.restart(ALICE, sandbox.id)
        refused.append(error.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(restart)
        await until(fleet, sandbox.id, State.KILLED)
        await fleet.sandboxes.delete(ALICE, sandbox.id)
    assert isinstance(refused[0], NotFound)
    assert orphans(data / "instances") == {}
    assert list((data / "instances").iterdir()) == []


async def test_a_restart_finishes_even_if_its_caller_disconnects(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fleet.lifecycle.restart, ALICE, "box")
        await until(fleet, "box", State.KILLED)
        tasks.cancel_scope.cancel()
    assert "restarted from its disk" in (await until(fleet, "box", State.RUNNING)).reason
