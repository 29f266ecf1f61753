"""Snapshots, what is made from them, and forks, on real machines."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from tests.waiting import PATIENCE_S
from vmm.errors import Conflict, InvalidInput, LimitExceeded, NotFound, SandboxLost, Unavailable
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.hypervisor.process import orphans
from vmm.lifecycle.forks import Fork, child_names
from vmm.machines.snapshots import Snapshot
from vmm.sandboxes.limits import OwnerLimits
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALICE, BOB = "a" * 24, "b" * 24
SPEC = SandboxSpec(name="box", image="minimal", mem=256)
Opener = Callable[..., AbstractAsyncContextManager[Fleet]]


async def run(fleet: Fleet, ref: str, line: str) -> str:
    outcome = await fleet.guest.exec(ALICE, ref, Command(shell=line), wait_ms=30_000)
    assert outcome.exit_code == 0, outcome
    return outcome.stdout.data().decode().strip()


def snapshots_on_disk(data: Path) -> list[str]:
    return sorted(path.name for path in (data / "snapshots").iterdir())


@pytest.fixture
async def fleet(fleet: Fleet, data: Path) -> AsyncGenerator[Fleet]:
    """A fleet without sandboxes and snapshots; those that a test makes are gone after it."""
    yield fleet
    for sandbox in (await fleet.sandboxes.list(ALICE, limit=100)).items:
        await fleet.sandboxes.delete(ALICE, sandbox.id)
    for snapshot in await fleet.snapshots.list(ALICE):
        await fleet.snapshots.delete(ALICE, snapshot.id)
    assert snapshots_on_disk(data) == []


@pytest.mark.kvm
async def test_a_restore_undoes_memory_files_and_programs(fleet: Fleet, data: Path) -> None:
    made = await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo before > /root/file; echo before > /dev/shm/nonce; rm -f /root/late")
    kept = await fleet.guest.start(ALICE, "box", Command(shell="while :; do sleep 0.2; done"))
    snapshot = await fleet.snapshots.take(ALICE, "box", name="before")
    await run(fleet, "box", "echo after > /root/file; echo after > /dev/shm/nonce; touch /root/late")
    await fleet.guest.signal(ALICE, "box", kept.pid, 9)
    restored = await fleet.snapshots.restore(ALICE, "box", "before")
    assert (restored.id, restored.state, restored.base) == (made.id, State.RUNNING, snapshot.id)
    assert await run(fleet, "box", "cat /root/file /dev/shm/nonce; ls /root/late 2>&1 | tail -c 10; hostname") == (
        "before\nbefore\ndirectory\nbox"
    )
    assert [process.running for process in await fleet.guest.processes(ALICE, "box") if process.pid == kept.pid] == [
        True
    ]
    assert len(list((data / "instances").iterdir())) == 1


async def test_a_sandbox_and_its_open_streams_continue_during_a_save(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    ticking = await fleet.guest.start(ALICE, "box", Command(shell="for n in $(seq 60); do echo $n; sleep 0.1; done"))
    seen = b""
    async with fleet.guest.attach(ALICE, "box", ticking.pid) as chunks, anyio.create_task_group() as tasks:
        tasks.start_soon(_save_twice, fleet)
        async for chunk in chunks:
            seen += chunk.data
    assert seen.split() == [str(n).encode() for n in range(1, 61)]


async def _save_twice(fleet: Fleet) -> None:
    for name in ("first", "second"):
        await anyio.sleep(0.3)
        await fleet.snapshots.take(ALICE, "box", name=name)


async def test_a_snapshot_outlives_its_sandbox_and_can_create_others(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, replace(SPEC, env={"COLOUR": "blue"}))
    await run(fleet, "box", "echo ram > /dev/shm/nonce; cp /etc/machine-id /root/id")
    await fleet.snapshots.take(ALICE, "box", name="gold", labels={"stage": "one"})
    await fleet.sandboxes.delete(ALICE, "box")
    (snapshot,) = await fleet.snapshots.list(ALICE)
    assert (snapshot.name, snapshot.sandbox_name, dict(snapshot.labels)) == ("gold", "box", {"stage": "one"})
    for name in ("one", "two"):
        made = await fleet.sandboxes.create(ALICE, SandboxSpec(name=name, image="ignored", mem=4096, snapshot="gold"))
        assert (made.image, made.mem, made.base) == ("minimal", 256, snapshot.id)
        assert await run(fleet, name, "cat /dev/shm/nonce; hostname; echo $COLOUR") == f"ram\n{name}\nblue"
        assert await run(fleet, name, "cmp -s /root/id /etc/machine-id || echo other") == "other"


async def test_a_sleeping_sandbox_is_saved_without_waking_it(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo ram > /dev/shm/nonce")
    for name in ("shared", "own"):
        await fleet.lifecycle.sleep(ALICE, "box")
        await fleet.snapshots.take(ALICE, "box", name=name)
        assert (await fleet.sandboxes.get(ALICE, "box")).state is State.ASLEEP
        assert data / "instances" / sandbox.machine not in orphans(data / "instances")
        await fleet.sandboxes.create(ALICE, SandboxSpec(name=f"from-{name}", snapshot=name))
        assert await run(fleet, f"from-{name}", "cat /dev/shm/nonce") == "ram"
        await fleet.lifecycle.wake(ALICE, "box")
    assert await run(fleet, "box", "cat /dev/shm/nonce") == "ram"


async def test_snapshots_are_found_by_id_name_and_id_prefix(fleet: Fleet) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    first, second = await fleet.snapshots.take(ALICE, "box", name="one"), await fleet.snapshots.take(ALICE, "box")
    assert second.name == "box-1"
    for ref in (first.id, "one", first.id[:23] if first.id[:23] != second.id[:23] else first.id):
        assert (await fleet.snapshots.get(ALICE, ref)).id == first.id
    with pytest.raises(Conflict, match=f"^Several snapshots match .*: {second.id}, {first.id}"):
        await fleet.snapshots.get(ALICE, first.id[:4])
    for owner, ref in ((BOB, first.id), (BOB, "one"), (ALICE, ""), (ALICE, "zzz"), (ALICE, "../" + first.id)):
        with pytest.raises(NotFound, match="There is no snapshot"):
            await fleet.snapshots.get(owner, ref)
    renamed = await fleet.snapshots.rename(ALICE, "one", "uno")
    assert await fleet.snapshots.get(ALICE, "uno") == renamed
    with pytest.raises(InvalidInput, match=r"name must be a DNS name .*, got 'No'"):
        await fleet.snapshots.rename(ALICE, "uno", "No")
    assert [snapshot.name for snapshot in await fleet.snapshots.list(ALICE, sandbox="box")] == ["box-1", "uno"]
    assert [snapshot.name for snapshot in await fleet.snapshots.list(ALICE, sandbox=sandbox.id)] == ["box-1", "uno"]
    with pytest.raises(NotFound):
        await fleet.snapshots.list(ALICE, sandbox="nobody")
    assert await fleet.snapshots.list(BOB) == ()


async def test_a_snapshot_with_dependent_snapshots_cannot_be_deleted(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    root = await fleet.snapshots.take(ALICE, "box", name="root")
    await fleet.snapshots.restore(ALICE, "box", "root")
    leaf = await fleet.snapshots.take(ALICE, "box", name="leaf")
    assert leaf.parent == root.id
    child = await fleet.sandboxes.create(ALICE, SandboxSpec(name="child", snapshot="root"))
    with pytest.raises(Conflict) as refused:
        await fleet.snapshots.delete(ALICE, "root")
    for named in (leaf.id, "leaf", child.id, "child"):
        assert named in str(refused.value)
    await fleet.snapshots.delete(ALICE, "leaf")
    await fleet.sandboxes.delete(ALICE, "child")
    await fleet.snapshots.delete(ALICE, "root")
    assert await run(fleet, "box", "hostname") == "box"


async def test_a_restore_to_an_incompatible_snapshot_is_refused_and_changes_nothing(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await fleet.sandboxes.create(ALICE, SandboxSpec(name="big", image="minimal", mem=320))
    await run(fleet, "box", "echo still > /dev/shm/nonce")
    await fleet.snapshots.take(ALICE, "big", name="large")
    other = await fleet.snapshots.take(ALICE, "box", name="foreign")
    _as_if_saved_by_another_hypervisor(data, other)
    with pytest.raises(Conflict, match=r"must have mem 256 like sandbox \w+, got 320"):
        await fleet.snapshots.restore(ALICE, "box", "large")
    with pytest.raises(Conflict, match=r"was saved by somebody 1\.0 and loads only there"):
        await fleet.snapshots.restore(ALICE, "box", "foreign")
    with pytest.raises(Conflict, match=r"was saved by somebody 1\.0"):
        await fleet.sandboxes.create(ALICE, SandboxSpec(name="new", snapshot="foreign"))
    with pytest.raises(NotFound):
        await fleet.snapshots.restore(ALICE, "box", "missing")
    assert await run(fleet, "box", "cat /dev/shm/nonce") == "still"
    assert len(list((data / "instances").iterdir())) == 2


def _as_if_saved_by_another_hypervisor(data: Path, snapshot: Snapshot) -> None:
    for name, key in (("saved.json", "fingerprint"), ("snapshot.json", "driver")):
        path = data / "snapshots" / snapshot.id / name
        path.write_text(json.dumps({**json.loads(path.read_text()), key: "somebody 1.0"}))


async def test_a_damaged_snapshot_is_refused_and_an_intact_copy_is_not(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    good, bad = (
        await fleet.snapshots.take(ALICE, "box", name="good"),
        await fleet.snapshots.take(ALICE, "box", name="bad"),
    )
    with (data / "snapshots" / bad.id / "ram").open("r+b") as ram:
        ram.seek(16 * 1024 * 1024)
        ram.write(b"flipped")
    (data / "snapshots" / good.id / "disk").touch()
    with pytest.raises(Unavailable, match="damaged: ram has changed since it was saved"):
        await fleet.snapshots.restore(ALICE, "box", "bad")
    await fleet.snapshots.restore(ALICE, "box", "good")
    assert await run(fleet, "box", "hostname") == "box"


async def test_a_killed_sandbox_can_be_restored_to_its_snapshot(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo ram > /dev/shm/nonce")
    await fleet.snapshots.take(ALICE, "box", name="good")
    await _kill(fleet, data, sandbox)
    assert (await fleet.snapshots.restore(ALICE, "box", "good")).reason == ""
    assert await run(fleet, "box", "cat /dev/shm/nonce") == "ram"


async def test_a_machine_that_dies_while_it_is_saved_leaves_no_snapshot(fleet: Fleet, data: Path) -> None:
    for delay in (0.0, 0.05, 0.15):
        sandbox = await fleet.sandboxes.create(ALICE, replace(SPEC, name="dying"))
        snapshot = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_kill_after, data, sandbox, delay)
            try:
                snapshot = await fleet.snapshots.take(ALICE, sandbox.id)
            except (SandboxLost, Unavailable) as error:
                assert str(error)
        assert snapshots_on_disk(data) == ([snapshot.id] if snapshot else [])
        if snapshot is not None:
            await fleet.snapshots.delete(ALICE, snapshot.id)
        await fleet.sandboxes.delete(ALICE, sandbox.id)


async def test_a_cancelled_save_leaves_the_sandbox_running_and_no_snapshot(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo ram > /dev/shm/nonce")
    for delay in (0.01, 0.05, 0.1, 0.2, 0.4):
        with anyio.move_on_after(delay) as limit:
            await fleet.snapshots.take(ALICE, "box")
        left = await fleet.snapshots.list(ALICE)
        assert len(left) == (0 if limit.cancelled_caught else 1)
        assert snapshots_on_disk(data) == [snapshot.id for snapshot in left]
        assert await run(fleet, "box", "cat /dev/shm/nonce") == "ram"
        for snapshot in left:
            await fleet.snapshots.delete(ALICE, snapshot.id)


async def test_snapshots_are_limited(open_fleet: Opener, tmp_path: Path) -> None:
    async with open_fleet(limits=OwnerLimits(snapshots=1), at=tmp_path / "data") as fleet:
        await fleet.sandboxes.create(ALICE, SPEC)
        await fleet.snapshots.take(ALICE, "box")
        with pytest.raises(LimitExceeded, match="snapshots must be at most 1, got 1 existing"):
            await fleet.snapshots.take(ALICE, "box")
        await fleet.sandboxes.delete(ALICE, "box")


async def test_leftovers_of_a_save_by_a_killed_server_are_removed(open_fleet: Opener, tmp_path: Path) -> None:
    left = tmp_path / "data" / "snapshots"
    for name in (".draft-1", ".fork-2", ".draft-3.gone"):
        (left / name).mkdir(parents=True)
        (left / name / "ram").touch()
    async with open_fleet(at=tmp_path / "data") as fleet:
        assert await fleet.snapshots.list(ALICE) == ()
    assert list(left.iterdir()) == []


@pytest.mark.kvm
async def test_a_fork_continues_where_its_parent_was(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo past > /dev/shm/nonce; echo past > /root/file")
    (fork,) = await fleet.snapshots.fork(ALICE, "box")
    assert fork.sandbox is not None, fork.error
    assert await run(fleet, "box-1", "cat /dev/shm/nonce /root/file; hostname") == "past\npast\nbox-1"
    await fleet.sandboxes.delete(ALICE, "box")
    assert await run(fleet, "box-1", "cat /dev/shm/nonce /root/file") == "past\npast"
    await fleet.sandboxes.delete(ALICE, "box-1")


@pytest.mark.kvm
async def test_forks_share_their_parents_state_and_nothing_else(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo past > /dev/shm/nonce; echo past > /root/file; cp /etc/machine-id /dev/shm/id")
    counting = await fleet.guest.start(ALICE, "box", Command(shell="while :; do sleep 0.1; done"))
    forks = await fleet.snapshots.fork(ALICE, "box", 3)
    assert [fork.error for fork in forks] == [None] * 3
    children = [fork.sandbox for fork in forks if fork.sandbox is not None]
    assert [child.name for child in children] == ["box-1", "box-2", "box-3"]
    for child in children:
        assert await run(fleet, child.id, "cat /dev/shm/nonce /root/file; hostname") == f"past\npast\n{child.name}"
        assert await run(fleet, child.id, "cmp -s /dev/shm/id /etc/machine-id || echo other") == "other"
        running = {process.pid: process.running for process in await fleet.guest.processes(ALICE, child.id)}
        assert running[counting.pid]
        await run(fleet, child.id, f"echo {child.name} > /root/file; echo {child.name} > /dev/shm/nonce; sync")
    everyone = ["box", *(child.id for child in children)]
    drawn = {await run(fleet, ref, "head -c 16 /dev/urandom | od -An -tx1") for ref in everyone}
    assert len(drawn) == 4
    assert await run(fleet, "box", "cat /root/file /dev/shm/nonce") == "past\npast"
    for child in children:
        assert await run(fleet, child.id, "cat /root/file /dev/shm/nonce") == f"{child.name}\n{child.name}"
    assert snapshots_on_disk(data) == []


async def test_forks_can_sleep_be_saved_and_be_forked(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    await run(fleet, "box", "echo 1 > /dev/shm/n")
    for depth in range(1, 4):
        name = "box" + "-1" * depth
        (fork,) = await fleet.snapshots.fork(ALICE, name[:-2])
        assert fork.sandbox is not None
        assert fork.sandbox.name == name
        await fleet.lifecycle.sleep(ALICE, name)
        assert await run(fleet, name, "cat /dev/shm/n") == str(depth)
        await run(fleet, name, f"echo {depth + 1} > /dev/shm/n")
    assert [await run(fleet, "box" + "-1" * depth, "cat /dev/shm/n") for depth in range(4)] == ["1", "2", "3", "4"]


async def test_each_fork_has_its_own_result(open_fleet: Opener, tmp_path: Path) -> None:
    async with open_fleet(limits=OwnerLimits(sandboxes=3), at=tmp_path / "data") as fleet:
        await fleet.sandboxes.create(ALICE, SPEC)
        forks = await fleet.snapshots.fork(ALICE, "box", 4)
        assert sum(fork.sandbox is not None for fork in forks) == 2
        assert all(isinstance(fork.error, LimitExceeded) for fork in forks if fork.sandbox is None)
        for sandbox in (await fleet.sandboxes.list(ALICE)).items:
            assert await run(fleet, sandbox.id, "hostname") == sandbox.name
            await fleet.sandboxes.delete(ALICE, sandbox.id)


async def test_forks_are_made_in_parallel_up_to_the_number_of_processors(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    forks: tuple[Fork, ...] = ()
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            places = list((data / "instances").iterdir())
            most = max(most, sum(not (place / "machine.json").exists() for place in places))
            await anyio.sleep(0.005)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        forks = await fleet.snapshots.fork(ALICE, "box", 8)
        tasks.cancel_scope.cancel()
    assert [fork.error for fork in forks] == [None] * 8
    assert 1 <= most <= (os.cpu_count() or 1)


async def test_invalid_forks_are_refused(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    for count in (0, -1, 101):
        with pytest.raises(InvalidInput, match=f"^count must be 1 to 100, got {count}$"):
            await fleet.snapshots.fork(ALICE, "box", count)
    with pytest.raises(NotFound):
        await fleet.snapshots.fork(BOB, sandbox.id)
    await fleet.lifecycle.sleep(ALICE, "box")
    with pytest.raises(Conflict, match=r"is asleep, only a running one can be forked. Wake it first"):
        await fleet.snapshots.fork(ALICE, "box")
    await fleet.lifecycle.wake(ALICE, "box")
    await _kill(fleet, data, sandbox)
    with pytest.raises(Conflict, match="is killed, only a running one can be forked"):
        await fleet.snapshots.fork(ALICE, "box")
    assert snapshots_on_disk(data) == []


async def test_a_cancelled_fork_leaves_the_parent_and_nothing_else(fleet: Fleet, data: Path) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    for delay in (0.05, 0.3, 0.8):
        with anyio.move_on_after(delay):
            await fleet.snapshots.fork(ALICE, "box", 8)
        assert snapshots_on_disk(data) == []
        assert await run(fleet, "box", "hostname") == "box"
        for sandbox in (await fleet.sandboxes.list(ALICE)).items:
            assert await run(fleet, sandbox.id, "hostname") == sandbox.name
            if sandbox.name != "box":
                await fleet.sandboxes.delete(ALICE, sandbox.id)
        assert len(list((data / "instances").iterdir())) == 1


def test_forks_are_named_after_their_parent_with_the_first_free_numbers() -> None:
    assert child_names("box", {"box-2"}, 3) == ["box-1", "box-3", "box-4"]
    assert child_names("a.example", (), 1) == ["a.example-1"]
    long = "x" * 63
    assert child_names(long, (), 1) == ["x" * 61 + "-1"]
    assert len(child_names(".".join([long] * 3 + ["y" * 61]), (), 100)[99]) == 253


async def _kill(fleet: Fleet, data: Path, sandbox: Sandbox) -> None:
    await _kill_after(data, sandbox, 0)
    with anyio.fail_after(PATIENCE_S):
        while (await fleet.sandboxes.get(ALICE, sandbox.id)).state is not State.KILLED:
            await anyio.sleep(0.02)


async def _kill_after(data: Path, sandbox: Sandbox, delay: float) -> None:
    await anyio.sleep(delay)
    for process in orphans(data / "instances").get(data / "instances" / sandbox.machine, []):
        os.kill(process.pid, signal.SIGKILL)
