"""Sandboxes that sleep, wake, are put back to a snapshot, die and start again, on real machines."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from tests.waiting import PATIENCE_S, until
from vmm.errors import CasemateError, Conflict, NotFound, SandboxLost
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.hypervisor.process import orphans
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALICE = "a" * 24
SPEC = SandboxSpec(name="box", image="minimal", mem=256)
COUNTER = "(while :; do n=$((n+1)); echo $n > /dev/shm/count; sleep 0.05; done) & echo started"
Opener = Callable[..., AbstractAsyncContextManager[Fleet]]


async def run(fleet: Fleet, ref: str, line: str) -> str:
    outcome = await fleet.guest.exec(ALICE, ref, Command(shell=line), wait_ms=30_000)
    assert outcome.exit_code == 0, outcome
    return outcome.stdout.data().decode().strip()


def hypervisors(data: Path) -> int:
    return sum(len(found) for found in orphans(data / "instances").values())


async def kill(fleet: Fleet, data: Path, sandbox: Sandbox) -> Sandbox:
    """End a sandbox's machine as a crash of the host's would, and wait until that is known."""
    (process,) = orphans(data / "instances")[data / "instances" / sandbox.machine]
    os.kill(process.pid, signal.SIGKILL)
    with anyio.fail_after(PATIENCE_S):
        while (found := await fleet.sandboxes.get(ALICE, sandbox.id)).state is not State.KILLED:
            await anyio.sleep(0.02)
    return found


@pytest.mark.kvm
async def test_a_sandbox_sleeps_without_a_process_and_wakes_where_it_was(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    counter = await fleet.guest.start(ALICE, "box", Command(shell="while :; do sleep 0.1; done"))
    await run(fleet, "box", "echo ram > /dev/shm/nonce; echo disk > /root/file; hostname > /dev/shm/name")
    identity = await run(fleet, "box", "cat /etc/machine-id /dev/shm/name")
    for _ in range(2):
        asleep = await fleet.lifecycle.sleep(ALICE, "box")
        assert asleep.state is State.ASLEEP
        assert hypervisors(data) == 0
        awake = await fleet.lifecycle.wake(ALICE, "box")
        assert (awake.state, awake.memory) == (State.RUNNING, "own")
        assert await run(fleet, "box", "cat /dev/shm/nonce /root/file") == "ram\ndisk"
        assert await run(fleet, "box", "cat /etc/machine-id; hostname") == identity
    running = [process for process in await fleet.guest.processes(ALICE, "box") if process.pid == counter.pid]
    assert [process.running for process in running] == [True]


async def test_concurrent_calls_wake_a_sleeping_sandbox_once(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await fleet.lifecycle.sleep(ALICE, "box")
    said: list[str] = []

    async def call() -> None:
        said.append(await run(fleet, "box", "hostname"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(call)
    assert said == ["box"] * 5
    assert hypervisors(data) == 1


async def test_reading_a_sleeping_sandboxs_metrics_does_not_wake_it(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await fleet.lifecycle.sleep(ALICE, "box")
    with pytest.raises(Conflict, match="is asleep"):
        await fleet.guest.metrics(ALICE, "box")
    assert (await fleet.sandboxes.get(ALICE, "box")).state is State.ASLEEP


async def test_a_woken_sandbox_has_the_right_time(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await fleet.lifecycle.sleep(ALICE, "box")
    await anyio.sleep(3)
    before = time.time()
    assert before - 1 <= int(await run(fleet, "box", "date +%s")) <= time.time() + 1


async def test_a_call_that_runs_while_its_sandbox_falls_asleep_reports_that(fleet: Fleet) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)

    async def put() -> None:
        await until(lambda: fleet.guest.processes(ALICE, sandbox.id), look_s=0.1)
        await fleet.lifecycle.sleep(ALICE, sandbox.id)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(put)
        with pytest.raises(Conflict, match="put to sleep during the call"):
            await fleet.guest.exec(ALICE, "box", Command(shell="sleep 20"), wait_ms=30_000)


async def test_a_sleeping_sandbox_can_be_deleted_and_leaves_nothing_behind(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await fleet.lifecycle.sleep(ALICE, "box")
    await fleet.sandboxes.delete(ALICE, "box")
    assert list((data / "instances").iterdir()) == []


async def test_repeated_sleep_and_wake_calls_change_nothing(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    assert (await fleet.lifecycle.wake(ALICE, "box")).state is State.RUNNING
    first = await fleet.lifecycle.sleep(ALICE, "box")
    assert await fleet.lifecycle.sleep(ALICE, "box") == first


async def test_a_killed_sandbox_can_neither_sleep_nor_wake(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    await kill(fleet, data, sandbox)
    with pytest.raises(Conflict, match="is killed, only a running one can sleep"):
        await fleet.lifecycle.sleep(ALICE, "box")
    with pytest.raises(SandboxLost, match="signal 9"):
        await fleet.lifecycle.wake(ALICE, "box")


async def test_a_killed_sandbox_starts_from_its_disk_and_reports_what_is_lost(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo kept > /root/file; cp /etc/machine-id /root/id; sync; echo lost > /dev/shm/nonce")
    await kill(fleet, data, sandbox)
    revived = await fleet.lifecycle.revive(ALICE, "box")
    assert (revived.state, revived.memory) == (State.RUNNING, "booted")
    assert "started from its disk" in revived.reason
    assert "memory and running processes are lost" in revived.reason
    assert await run(
        fleet, "box", "cat /root/file; ls /dev/shm; hostname; cmp /root/id /etc/machine-id && echo same"
    ) == ("kept\nbox\nsame")
    await fleet.lifecycle.sleep(ALICE, "box")
    assert await run(fleet, "box", "cat /root/file") == "kept"


async def test_a_killed_sandbox_starts_from_its_newest_snapshot(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo first > /dev/shm/nonce")
    await fleet.snapshots.take(ALICE, "box", name="old")
    await run(fleet, "box", "echo second > /dev/shm/nonce")
    await fleet.snapshots.take(ALICE, "box", name="new")
    await run(fleet, "box", "echo third > /dev/shm/nonce")
    await kill(fleet, data, sandbox)
    revived = await fleet.lifecycle.revive(ALICE, "box")
    assert "newest snapshot, new (" in revived.reason
    assert await run(fleet, "box", "cat /dev/shm/nonce") == "second"
    for snapshot in await fleet.snapshots.list(ALICE):
        await fleet.snapshots.delete(ALICE, snapshot.id)


async def test_a_sleeping_sandbox_that_cannot_be_woken_can_start_from_its_disk(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo kept > /root/file; sync")
    asleep = await fleet.lifecycle.sleep(ALICE, "box")
    record = data / "instances" / asleep.machine / "machine.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "secret": "00" * 32}))  # the agent that wakes knows another one
    revived = await fleet.lifecycle.revive(ALICE, "box")
    assert "started from its disk" in revived.reason
    assert await run(fleet, "box", "cat /root/file") == "kept"


async def test_a_machine_that_a_killed_server_did_not_record_is_ended_by_the_next_server(
    open_fleet: Opener, data: Path
) -> None:
    async with open_fleet() as fleet:
        sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    directory = data / "instances" / sandbox.machine
    await orphans(data / "instances")[directory][0].kill()
    begun = await anyio.open_process(["sleep", "1000"], cwd=directory)
    async with begun, open_fleet() as fleet:
        assert (await fleet.sandboxes.get(ALICE, sandbox.id)).state is State.KILLED
        assert await begun.wait() != 0  # How it ended, only one of us two who wait for it is told.
        await fleet.sandboxes.delete(ALICE, sandbox.id)


@pytest.mark.parametrize("asleep", [False, True])
async def test_a_restart_of_the_server_changes_no_sandboxs_state(open_fleet: Opener, asleep: bool) -> None:
    async with open_fleet() as fleet:
        await fleet.sandboxes.create(ALICE, SPEC)
        await run(fleet, "box", "echo ram > /dev/shm/nonce")
        if asleep:
            await fleet.lifecycle.sleep(ALICE, "box")
    async with open_fleet() as fleet:
        assert (await fleet.sandboxes.get(ALICE, "box")).state is (State.ASLEEP if asleep else State.RUNNING)
        assert await run(fleet, "box", "cat /dev/shm/nonce") == "ram"
        await fleet.sandboxes.delete(ALICE, "box")


async def test_sandboxes_suspended_at_a_servers_stop_are_woken_at_its_next_start(
    open_fleet: Opener, data: Path
) -> None:
    async with open_fleet() as fleet:
        for name in ("one", "two", "three"):
            await fleet.sandboxes.create(ALICE, SandboxSpec(name=name, image="minimal", mem=256))
            await run(fleet, name, "echo $HOSTNAME-ram > /dev/shm/nonce")
        await fleet.lifecycle.sleep(ALICE, "three")
        assert await fleet.lifecycle.sleep_all() == 2
        assert hypervisors(data) == 0
    async with open_fleet() as fleet:
        with anyio.fail_after(PATIENCE_S):
            while [s.state for s in (await fleet.sandboxes.list(ALICE)).items].count(State.RUNNING) < 2:
                await anyio.sleep(0.05)
        assert (await fleet.sandboxes.get(ALICE, "three")).state is State.ASLEEP
        for name in ("one", "two", "three"):
            assert await run(fleet, name, "test -s /dev/shm/nonce; hostname") == name
            await fleet.sandboxes.delete(ALICE, name)


async def test_a_sandbox_keeps_its_ttl_while_it_sleeps(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SandboxSpec(name="box", image="minimal", mem=256, ttl_s=600))
    asleep = await fleet.lifecycle.sleep(ALICE, "box")
    assert asleep.expires_ms == 0
    assert 500_000 < asleep.left_ms <= 600_000
    awake = await fleet.lifecycle.wake(ALICE, "box")
    assert awake.left_ms == 0
    assert awake.expires_ms > 0
    renewed = await fleet.sandboxes.update(ALICE, "box", ttl_s=3600)
    assert renewed.expires_ms > awake.expires_ms


async def test_a_sandbox_that_is_deleted_during_its_wake_is_gone(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    for delay in (0.0, 0.05, 0.2, 0.35):
        await fleet.lifecycle.sleep(ALICE, sandbox.id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_wake_if_there, fleet, sandbox.id)
            await anyio.sleep(delay)
            await fleet.sandboxes.delete(ALICE, sandbox.id)
        assert orphans(data / "instances") == {}
        assert list((data / "instances").iterdir()) == []
        with pytest.raises(NotFound):
            await fleet.sandboxes.get(ALICE, sandbox.id)
        sandbox = await fleet.sandboxes.create(ALICE, SPEC)


async def _wake_if_there(fleet: Fleet, sandbox_id: str) -> None:
    try:
        await fleet.lifecycle.wake(ALICE, sandbox_id)
    except CasemateError as error:
        assert str(error)
