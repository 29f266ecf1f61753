"""A host whose disk fills up under running machines."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from vmm.errors import HostExhausted
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.limits import HostReserve
from vmm.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(240)]

OWNER = "a" * 24
MIB = 1024 * 1024
SPEC = SandboxSpec(name="box", image="minimal", mem=512)


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system for the host's disk")
    place = tmp_path / "small"
    place.mkdir()
    image = tmp_path / "small.ext4"
    with image.open("wb") as file:
        file.truncate(480 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


async def test_a_full_host_disk_stops_a_machine_and_room_lets_it_go_on(
    open_fleet: Callable[..., AbstractAsyncContextManager[Fleet]], small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(150 * MIB))
    async with open_fleet(at=small_disk, reserve=HostReserve(disk=1)) as fleet:
        await fleet.create(OWNER, SPEC)
        fill = Command(shell="yes | head -c 260M > /root/big && sync && stat -c %s /root/big")
        started = await fleet.start(OWNER, "box", fill)
        with anyio.fail_after(120):
            while True:
                try:
                    await fleet.wait(OWNER, "box", started.pid, wait_ms=1000)
                except HostExhausted as error:
                    assert "host's disk is full" in error.message
                    assert error.retryable
                    break
        await anyio.to_thread.run_sync(ballast.unlink)
        with anyio.fail_after(90):
            while True:
                try:
                    done = await fleet.wait(OWNER, "box", started.pid, wait_ms=5000)
                except HostExhausted:
                    continue
                if not done.running:
                    break
        assert done.stdout.data() == f"{260 * MIB}\n".encode(), done
        await fleet.delete(OWNER, "box")


async def test_a_create_on_a_full_host_disk_is_refused_and_leaves_nothing(
    open_fleet: Callable[..., AbstractAsyncContextManager[Fleet]], small_disk: Path
) -> None:
    async with open_fleet(at=small_disk, reserve=HostReserve(disk=1)) as fleet:
        await fleet.create(OWNER, SPEC)
        await fleet.delete(OWNER, "box")
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        await anyio.Path(small_disk / "ballast").write_bytes(bytes(free - 2 * MIB))
        with pytest.raises(HostExhausted, match="disk"):
            await fleet.create(OWNER, SPEC)
        assert list((small_disk / "instances").iterdir()) == []
        assert (await fleet.list(OWNER)).total == 0
