"""A host whose disk fills up under running machines."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from tests.waiting import PATIENCE_S
from vmm.errors import HostExhausted
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.sandboxes.limits import HostReserve
from vmm.sandboxes.sandbox import State
from vmm.sandboxes.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

OWNER = "a" * 24
MIB = 1024 * 1024
SPEC = SandboxSpec(name="box", image="minimal", mem=256)


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system for the host's disk")
    place = tmp_path / "small"
    place.mkdir()
    image = tmp_path / "small.ext4"
    with image.open("wb") as file:
        file.truncate(1200 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


async def fill_up(place: Path, *, but: int) -> Path:
    """Write a file that leaves so many bytes free."""
    ballast = place / "ballast"
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    with ballast.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, free - but)
    return ballast


async def said(fleet: Fleet, line: str) -> str:
    outcome = await fleet.guest.exec(OWNER, "box", Command(shell=line), wait_ms=30_000)
    assert outcome.exit_code == 0, outcome
    return outcome.stdout.data().decode().strip()


async def test_a_full_host_disk_pauses_a_machine_until_there_is_space(
    open_fleet: Callable[..., AbstractAsyncContextManager[Fleet]], small_disk: Path
) -> None:
    async with open_fleet(at=small_disk, reserve=HostReserve(disk=1)) as fleet:
        await fleet.sandboxes.create(OWNER, SPEC)
        ballast = await fill_up(small_disk, but=100 * MIB)
        fill = Command(shell="yes | head -c 260M > /root/big && sync && stat -c %s /root/big")
        started = await fleet.guest.start(OWNER, "box", fill)
        with anyio.fail_after(PATIENCE_S):
            while True:
                try:
                    await fleet.guest.wait(OWNER, "box", started.pid, wait_ms=1000)
                except HostExhausted as error:
                    assert "host's disk is full" in error.message
                    assert error.retryable
                    break
        await anyio.to_thread.run_sync(ballast.unlink)
        with anyio.fail_after(PATIENCE_S):
            while True:
                try:
                    done = await fleet.guest.wait(OWNER, "box", started.pid, wait_ms=5000)
                except HostExhausted:
                    continue
                if not done.running:
                    break
        assert done.stdout.data() == f"{260 * MIB}\n".encode(), done
        await fleet.sandboxes.delete(OWNER, "box")


async def test_a_create_on_a_full_host_disk_is_refused_and_leaves_nothing_behind(
    open_fleet: Callable[..., AbstractAsyncContextManager[Fleet]], small_disk: Path
) -> None:
    async with open_fleet(at=small_disk, reserve=HostReserve(disk=1)) as fleet:
        await fleet.sandboxes.create(OWNER, SPEC)
        await fleet.sandboxes.delete(OWNER, "box")
        await fill_up(small_disk, but=2 * MIB)
        with pytest.raises(HostExhausted, match="disk"):
            await fleet.sandboxes.create(OWNER, SPEC)
        assert list((small_disk / "instances").iterdir()) == []
        assert (await fleet.sandboxes.list(OWNER)).total == 0


@pytest.mark.parametrize("own_memory", [True, False])
async def test_an_operation_that_fails_on_a_full_host_disk_leaves_the_sandbox_unchanged(
    open_fleet: Callable[..., AbstractAsyncContextManager[Fleet]], small_disk: Path, own_memory: bool
) -> None:
    async with open_fleet(at=small_disk, reserve=HostReserve(disk=1), own_memory=own_memory) as fleet:
        await fleet.sandboxes.create(OWNER, SPEC)
        await said(fleet, "echo ram > /dev/shm/nonce")
        first = await fleet.snapshots.take(OWNER, "box", name="first")
        places = set((small_disk / "instances").iterdir()) | set((small_disk / "snapshots").iterdir())
        ballast = await fill_up(small_disk, but=3 * MIB)
        for attempt in (
            lambda: fleet.snapshots.take(OWNER, "box", name="second"),
            lambda: fleet.snapshots.fork(OWNER, "box"),
            lambda: fleet.snapshots.restore(OWNER, "box", "first"),
            *([] if own_memory else [lambda: fleet.lifecycle.sleep(OWNER, "box")]),
        ):
            with pytest.raises(HostExhausted, match="disk"):
                await attempt()
            assert await said(fleet, "cat /dev/shm/nonce") == "ram"
            assert set((small_disk / "instances").iterdir()) | set((small_disk / "snapshots").iterdir()) == places
        assert await fleet.snapshots.list(OWNER) == (first,)
        await anyio.to_thread.run_sync(ballast.unlink)
        await fleet.lifecycle.sleep(OWNER, "box")
        ballast = await fill_up(small_disk, but=3 * MIB)
        with pytest.raises(HostExhausted, match="disk"):
            await fleet.lifecycle.wake(OWNER, "box")
        assert (await fleet.sandboxes.get(OWNER, "box")).state is State.ASLEEP
        await anyio.to_thread.run_sync(ballast.unlink)
        assert await said(fleet, "cat /dev/shm/nonce") == "ram"
        await fleet.sandboxes.delete(OWNER, "box")


async def test_disk_space_for_a_machines_own_memory_is_reserved_before_it_runs(
    open_fleet: Callable[..., AbstractAsyncContextManager[Fleet]], small_disk: Path
) -> None:
    async with open_fleet(at=small_disk, reserve=HostReserve(disk=1), own_memory=True) as fleet:
        await fleet.sandboxes.create(OWNER, SPEC)
        await fill_up(small_disk, but=MIB)
        assert await said(fleet, "head -c 100M /dev/zero | tr '\\0' x > /dev/shm/big; stat -c %s /dev/shm/big") == str(
            100 * MIB
        )
        await fleet.sandboxes.delete(OWNER, "box")
