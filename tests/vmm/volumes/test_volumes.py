"""Volumes on real machines: attached, detached, kept through sleep, restarts, snapshots, forks and servers' ends."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from tests.waiting import PATIENCE_S
from vmm.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.machines.snapshots import Snapshot
from vmm.sandboxes.limits import OwnerLimits
from vmm.sandboxes.sandbox import State
from vmm.sandboxes.spec import SandboxSpec
from vmm.sandboxes.volume_mount import VolumeMount

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALICE, BOB = "a" * 24, "b" * 24
SPEC = SandboxSpec(name="box", image="minimal", mem=256)
Opener = Callable[..., AbstractAsyncContextManager[Fleet]]


async def run(fleet: Fleet, ref: str, line: str, *, user: str = "") -> str:
    outcome = await fleet.guest.exec(ALICE, ref, Command(shell=line, user=user), wait_ms=60_000)
    assert outcome.exit_code == 0, outcome
    return outcome.stdout.data().decode().strip()


async def fails(fleet: Fleet, ref: str, line: str) -> str:
    outcome = await fleet.guest.exec(ALICE, ref, Command(shell=line), wait_ms=60_000)
    assert outcome.exit_code != 0, outcome
    return outcome.stderr.data().decode().strip()


def files(data: Path) -> list[str]:
    return sorted(path.name for path in (data / "volumes").iterdir())


@pytest.fixture
async def fleet(fleet: Fleet, data: Path) -> AsyncGenerator[Fleet]:
    """A fleet without sandboxes and volumes; those that a test makes are gone after it."""
    yield fleet
    for sandbox in (await fleet.sandboxes.list(ALICE, limit=100)).items:
        await fleet.sandboxes.delete(ALICE, sandbox.id)
    for snapshot in await fleet.snapshots.list(ALICE):
        await fleet.snapshots.delete(ALICE, snapshot.id)
    for volume in await fleet.volumes.list(ALICE):
        await fleet.volumes.delete(ALICE, volume.name)
    assert files(data) == []


@pytest.mark.kvm
async def test_a_volume_outlives_the_sandboxes_that_have_it(fleet: Fleet) -> None:
    await fleet.volumes.create(ALICE, "data", size=64)
    first = await fleet.sandboxes.create(ALICE, replace(SPEC, volumes=[VolumeMount(volume="data", path="/data/")]))
    assert await run(fleet, "box", "ls -A /data; stat -c '%a %u' /data") == "777 0"
    await run(fleet, "box", "echo kept > /data/file")
    await fleet.sandboxes.delete(ALICE, first.id)
    assert (await fleet.volumes.get(ALICE, "data")).attached == {}
    await fleet.sandboxes.create(ALICE, SPEC)
    volume = await fleet.volumes.attach(ALICE, "box", "data", "/mnt/again")
    assert await run(fleet, "box", "cat /mnt/again/file") == "kept"
    options = (await run(fleet, "box", "grep /mnt/again /proc/mounts")).split()[3].split(",")
    assert {"rw", "nosuid", "nodev"} <= set(options)
    assert [volume.id] == [one.id for one in await fleet.volumes.list(ALICE, sandbox="box")]
    await fleet.volumes.detach(ALICE, "box", "data")
    assert await run(fleet, "box", "ls -A /mnt/again; ls /sys/block | grep -c ^sd || true") == "0"
    assert await fleet.volumes.list(ALICE, sandbox="box") == ()


async def test_one_sandbox_writes_or_several_read(fleet: Fleet) -> None:
    await fleet.volumes.create(ALICE, "data", size=64)
    one = await fleet.sandboxes.create(ALICE, replace(SPEC, name="one"))
    await fleet.sandboxes.create(ALICE, replace(SPEC, name="two"))
    await fleet.volumes.attach(ALICE, "one", "data", "/data")
    await run(fleet, "one", "echo shared > /data/file")
    with pytest.raises(Conflict, match=rf"data is attached read-write to sandbox one \({one.id}\)"):
        await fleet.volumes.attach(ALICE, "two", "data", "/data", read_only=True)
    with pytest.raises(Conflict, match="already attached to this sandbox, read-write at /data"):
        await fleet.volumes.attach(ALICE, "one", "data", "/other")
    await fleet.volumes.detach(ALICE, "one", "data")
    for name in ("one", "two"):
        await fleet.volumes.attach(ALICE, name, "data", "/data", read_only=True)
        assert await run(fleet, name, "cat /data/file") == "shared"
        assert "Read-only" in await fails(fleet, name, "echo mine > /data/file")
        # Not even the disk below: the host has opened the file for reading.
        assert await fails(fleet, name, "mknod /root/disk b 8 0 && echo over > /root/disk")
    with pytest.raises(Conflict, match="cannot be attached read-write to another one"):
        await fleet.sandboxes.create(
            ALICE, replace(SPEC, name="three", volumes=[VolumeMount(volume="data", path="/data")])
        )
    with pytest.raises(Conflict, match=r"attached to sandbox one .*, two "):
        await fleet.volumes.delete(ALICE, "data")
    assert {one.name for one in (await fleet.sandboxes.list(ALICE)).items} == {"one", "two"}


async def test_a_full_volume_fails_writes_to_it_and_nothing_else(fleet: Fleet) -> None:
    await fleet.volumes.create(ALICE, "data", size=64)
    await fleet.sandboxes.create(ALICE, replace(SPEC, volumes=[VolumeMount(volume="data", path="/data")]))
    assert "No space left on device" in await fails(fleet, "box", "dd if=/dev/zero of=/data/big bs=1M count=80")
    assert await run(fleet, "box", "echo fine > /root/file; sync; cat /root/file; rm /data/big; echo x > /data/x") == (
        "fine"
    )


async def test_sleep_keeps_volumes_and_refuses_while_programs_use_one(fleet: Fleet) -> None:
    await fleet.volumes.create(ALICE, "data", size=64)
    await fleet.sandboxes.create(ALICE, replace(SPEC, volumes=[VolumeMount(volume="data", path="/data")]))
    await run(fleet, "box", "echo before > /data/file; echo memory > /dev/shm/word")
    held = await fleet.guest.start(ALICE, "box", Command(shell="cd /data; exec sleep 1000"))
    await run(fleet, "box", f"until [ $(readlink /proc/{held.pid}/cwd) = /data ]; do sleep 0.05; done")
    with pytest.raises(Conflict, match=rf"/data is in use by sleep \({held.pid}\)"):
        await fleet.lifecycle.sleep(ALICE, "box")
    assert await run(fleet, "box", "cat /data/file") == "before"
    with pytest.raises(Conflict, match=r"in use by sleep"):
        await fleet.snapshots.take(ALICE, "box")
    with pytest.raises(Conflict, match=r"in use by sleep"):
        await fleet.volumes.detach(ALICE, "box", "data")
    await fleet.guest.signal(ALICE, "box", held.pid, signal.SIGKILL)
    await fleet.guest.wait(ALICE, "box", held.pid, wait_ms=10_000)
    assert (await fleet.lifecycle.sleep(ALICE, "box")).state is State.ASLEEP
    await fleet.sandboxes.create(ALICE, replace(SPEC, name="other"))
    with pytest.raises(Conflict, match="read-write to sandbox box"):
        await fleet.volumes.attach(ALICE, "other", "data", "/data")
    assert (await fleet.lifecycle.wake(ALICE, "box")).reason == ""
    assert await run(fleet, "box", "cat /data/file /dev/shm/word") == "before\nmemory"
    await fleet.lifecycle.sleep(ALICE, "box")
    await fleet.volumes.detach(ALICE, "box", "data")
    await fleet.volumes.attach(ALICE, "other", "data", "/data")
    assert await run(fleet, "other", "cat /data/file") == "before"
    assert "No such file" in await fails(fleet, "box", "cat /data/file")


async def test_programs_never_see_a_directory_without_its_volume(fleet: Fleet) -> None:
    await fleet.volumes.create(ALICE, "data", size=64)
    await fleet.sandboxes.create(ALICE, replace(SPEC, volumes=[VolumeMount(volume="data", path="/data")]))
    await run(fleet, "box", "echo here > /data/file")
    # The shell's own test holds nothing open, so that the volume can be unmounted between two rounds.
    loop = "n=0; while [ -e /data/file ]; do n=$((n + 1)); echo $n > /data/count; done; echo gone; exit 3"
    held = await fleet.guest.start(ALICE, "box", Command(shell=loop))
    taken: list[Snapshot] = []
    for _ in range(20):
        try:
            taken.append(await fleet.snapshots.take(ALICE, "box"))
            (fork,) = await fleet.snapshots.fork(ALICE, "box")
            assert fork.sandbox is not None, fork.error
            assert (await fleet.guest.wait(ALICE, fork.sandbox.id, held.pid, wait_ms=200)).running
            await fleet.lifecycle.sleep(ALICE, "box")
            await fleet.lifecycle.wake(ALICE, "box")
            break
        except Conflict as error:  # it was just writing
            assert "in use by bash" in error.message
    else:
        pytest.fail("the program was writing each time")
    assert (await fleet.guest.wait(ALICE, "box", held.pid, wait_ms=200)).running
    before = int(await run(fleet, "box", "cat /data/count"))
    await run(fleet, "box", f"until [ $(cat /data/count) -gt {before} ]; do sleep 0.05; done")
    await fleet.lifecycle.restart(ALICE, "box")


async def test_a_restart_a_restore_and_a_lost_machine_keep_what_the_volume_holds_now(fleet: Fleet) -> None:
    await fleet.volumes.create(ALICE, "data", size=64)
    made = await fleet.sandboxes.create(ALICE, replace(SPEC, volumes=[VolumeMount(volume="data", path="/data")]))
    await run(fleet, "box", "echo one > /data/file; echo then > /root/file")
    snapshot = await fleet.snapshots.take(ALICE, "box")
    await run(fleet, "box", "echo two > /data/file; echo now > /root/file; sync")
    await fleet.snapshots.restore(ALICE, "box", snapshot.id)
    assert await run(fleet, "box", "cat /data/file /root/file") == "two\nthen"
    await fleet.lifecycle.restart(ALICE, "box")
    assert await run(fleet, "box", "cat /data/file") == "two"
    await run(fleet, "box", "echo three > /data/file; sync")
    machine = fleet._machines.get(made.id)  # pyright: ignore[reportPrivateUsage]
    assert machine is not None
    os.kill(machine.running.process.pid, signal.SIGKILL)
    with anyio.fail_after(PATIENCE_S):
        while (await fleet.sandboxes.get(ALICE, "box")).state is not State.KILLED:
            await anyio.sleep(0.02)
    with pytest.raises(Conflict, match="attached to sandbox box"):
        await fleet.volumes.delete(ALICE, "data")
    await fleet.lifecycle.revive(ALICE, "box")
    assert await run(fleet, "box", "cat /data/file") == "three"


async def test_a_new_sandbox_of_a_snapshot_has_no_volumes_but_those_it_asks_for(fleet: Fleet) -> None:
    await fleet.volumes.create(ALICE, "data", size=64)
    await fleet.sandboxes.create(ALICE, replace(SPEC, volumes=[VolumeMount(volume="data", path="/data")]))
    await run(fleet, "box", "echo here > /data/file")
    snapshot = await fleet.snapshots.take(ALICE, "box")
    await fleet.sandboxes.create(ALICE, replace(SPEC, name="bare", snapshot=snapshot.id))
    assert await run(fleet, "bare", "ls -A /data") == ""
    await fleet.volumes.detach(ALICE, "box", "data")
    await fleet.sandboxes.create(
        ALICE,
        replace(SPEC, name="with", snapshot=snapshot.id, volumes=[VolumeMount(volume="data", path="/data")]),
    )
    assert await run(fleet, "with", "cat /data/file") == "here"


async def test_forks_get_copies_of_what_their_parent_writes_and_share_what_it_reads(fleet: Fleet) -> None:
    await fleet.volumes.create(ALICE, "data", size=64)
    await fleet.volumes.create(ALICE, "base", size=64)
    await fleet.sandboxes.create(
        ALICE,
        replace(
            SPEC,
            volumes=[
                VolumeMount(volume="data", path="/data"),
                VolumeMount(volume="base", path="/base", read_only=True),
            ],
        ),
    )
    await run(fleet, "box", "echo then > /data/file")
    first, second = await fleet.snapshots.fork(ALICE, "box", 2)
    assert first.sandbox is not None and second.sandbox is not None, (first.error, second.error)
    await run(fleet, "box", "echo parent > /data/file")
    await run(fleet, "box-1", "echo child >> /data/file; ls /base")
    assert await run(fleet, "box-1", "cat /data/file") == "then\nchild"
    assert await run(fleet, "box-2", "cat /data/file") == "then"
    assert await run(fleet, "box", "cat /data/file") == "parent"
    volumes = {volume.name: volume for volume in await fleet.volumes.list(ALICE)}
    assert set(volumes) == {"base", "data", "data-1", "data-2"}
    assert volumes["data-1"].source == volumes["data"].id
    assert len(volumes["base"].attached) == 3
    (bare,) = await fleet.snapshots.fork(ALICE, "box", volumes="none")
    assert bare.sandbox is not None, bare.error
    assert await run(fleet, bare.sandbox.id, "ls -A /data /base | grep -c file || true") == "0"
    assert await run(fleet, "box", "cat /data/file") == "parent"
    with pytest.raises(InvalidInput, match="volumes must be copy or none, got 'all'"):
        await fleet.snapshots.fork(ALICE, "box", volumes="all")


async def test_a_snapshot_of_a_volume_in_use_holds_all_that_was_written(fleet: Fleet) -> None:
    await fleet.volumes.create(ALICE, "data", size=64)
    await fleet.sandboxes.create(ALICE, replace(SPEC, volumes=[VolumeMount(volume="data", path="/data")]))
    await run(fleet, "box", "echo one > /data/file")
    held = await fleet.guest.start(ALICE, "box", Command(shell="while :; do date >> /data/log; sleep 0.05; done"))
    copy = await fleet.volumes.snapshot(ALICE, "data", "kept")
    await run(fleet, "box", "echo two > /data/file")
    await fleet.sandboxes.create(ALICE, replace(SPEC, name="other"))
    # Clean: a file system that needs repair cannot be mounted read-only.
    await fleet.volumes.attach(ALICE, "other", copy.id, "/kept", read_only=True)
    assert await run(fleet, "other", "cat /kept/file") == "one"
    assert (await fleet.guest.wait(ALICE, "box", held.pid, wait_ms=0)).running
    assert (await fleet.volumes.snapshot(ALICE, "kept")).name == "kept-1"
    with pytest.raises(Conflict, match="already a volume kept"):
        await fleet.volumes.snapshot(ALICE, "data", "kept")
    await fleet.guest.signal(ALICE, "box", held.pid, signal.SIGKILL)
    await fleet.guest.wait(ALICE, "box", held.pid, wait_ms=10_000)
    await fleet.volumes.detach(ALICE, "box", "data")


async def test_a_server_that_starts_again_takes_over_machines_with_their_volumes(open_fleet: Opener) -> None:
    async with open_fleet() as fleet:
        await fleet.volumes.create(ALICE, "data", size=64)
        await fleet.sandboxes.create(ALICE, replace(SPEC, volumes=[VolumeMount(volume="data", path="/data")]))
        held = await fleet.guest.start(ALICE, "box", Command(shell="cd /data; echo mine > file; exec sleep 1000"))
    async with open_fleet() as fleet:
        assert await run(fleet, "box", "cat /data/file") == "mine"
        assert (await fleet.guest.wait(ALICE, "box", held.pid, wait_ms=0)).running
        await fleet.volumes.detach(ALICE, "box", "data", force=True)
        await fleet.volumes.delete(ALICE, "data")
        await fleet.sandboxes.delete(ALICE, "box")


async def test_values_that_are_not_allowed_change_nothing(fleet: Fleet, data: Path) -> None:
    box = await fleet.sandboxes.create(ALICE, SPEC)
    await fleet.volumes.create(ALICE, "data", size=64)
    for path in ("data", "/", "//", "/data/../..", "/proc/x", "/dev", "/etc/", "/usr", "", "/a\nb"):
        with pytest.raises(InvalidInput, match="path must be"):
            await fleet.volumes.attach(ALICE, "box", "data", path)
    await run(fleet, "box", "ln -s / /root/link; echo > /root/file")
    with pytest.raises(InvalidInput, match="path must be a directory of the sandbox's own"):
        await fleet.volumes.attach(ALICE, "box", "data", "/root/link")
    with pytest.raises(Exception, match=r"Not a directory|File exists"):
        await fleet.volumes.attach(ALICE, "box", "data", "/root/file")
    with pytest.raises(NotFound):
        await fleet.volumes.attach(ALICE, "box", "unknown", "/data")
    for call in (
        fleet.volumes.get(BOB, "data"),
        fleet.volumes.delete(BOB, "data"),
        fleet.volumes.snapshot(BOB, "data"),
        fleet.volumes.attach(BOB, box.id, "data", "/data"),
    ):
        with pytest.raises(NotFound):
            await call
    await fleet.volumes.create(BOB, "data", size=64)
    with pytest.raises(NotFound):
        await fleet.volumes.attach(ALICE, box.id, (await fleet.volumes.get(BOB, "data")).id, "/data")
    await fleet.volumes.delete(BOB, "data")
    with pytest.raises(Conflict, match="not attached to this sandbox"):
        await fleet.volumes.detach(ALICE, "box", "data")
    assert (await fleet.volumes.get(ALICE, "data")).attached == {}
    assert await run(fleet, "box", "ls /sys/block | grep -c ^sd || true") == "0"
    assert len(files(data)) == 1


async def test_a_machine_of_an_earlier_release_takes_no_volumes(fleet: Fleet) -> None:
    made = await fleet.sandboxes.create(ALICE, SPEC)
    await fleet.volumes.create(ALICE, "data", size=64)
    machine = fleet._machines.get(made.id)  # pyright: ignore[reportPrivateUsage]
    assert machine is not None
    machine.hardware = replace(machine.hardware, volumes=False)
    with pytest.raises(Conflict, match="its machine takes no volumes"):
        await fleet.volumes.attach(ALICE, "box", "data", "/data")
    assert (await fleet.volumes.get(ALICE, "data")).attached == {}
    assert (await fleet.lifecycle.sleep(ALICE, "box")).state is State.ASLEEP


async def test_an_owner_has_as_many_volumes_as_its_limits_allow(open_fleet: Opener) -> None:
    async with open_fleet(limits=OwnerLimits(volumes=2, volume_disk=200)) as fleet:
        await fleet.volumes.create(ALICE, "one", size=64)
        with pytest.raises(LimitExceeded, match=r"size must be at most 136 MiB \(64 of 200"):
            await fleet.volumes.create(ALICE, "two", size=137)
        await fleet.volumes.create(ALICE, "two", size=136)
        with pytest.raises(LimitExceeded, match="volumes must be at most 2, got 2 existing"):
            await fleet.volumes.create(ALICE, "three", size=64)
        await fleet.volumes.delete(ALICE, "one")
        await fleet.volumes.delete(ALICE, "two")
