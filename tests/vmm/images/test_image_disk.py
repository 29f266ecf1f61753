from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S
from vmm.errors import Conflict, HostExhausted, InvalidInput
from vmm.images.disk import make_disk
from vmm.images.tools import find_tool

pytestmark = pytest.mark.anyio

_MIB = 1024 * 1024


def _debugfs(disk: Path, command: str) -> str:
    tool = find_tool("debugfs")
    assert tool is not None
    done = subprocess.run([tool, "-R", command, disk], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    return done.stdout


async def test_a_disk_is_sparse(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    await make_disk(disk, 10 * 1024)
    status = disk.stat()
    assert status.st_size == 10 * 1024 * _MIB
    assert status.st_blocks * 512 < 8 * _MIB
    assert status.st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [disk]


async def test_a_disk_passes_fsck_and_has_the_directories_of_an_overlay(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    await make_disk(disk, 10 * 1024)
    check = find_tool("e2fsck")
    assert check is not None
    subprocess.run([check, "-f", "-n", disk], capture_output=True, check=True, timeout=PATIENCE_S)
    for name in ("upper", "work"):
        inode = _debugfs(disk, f"stat {name}")
        assert "Type: directory" in inode
        assert "Mode:  0755" in inode
        assert "User:     0   Group:     0" in inode
    features = _debugfs(disk, "stats")
    assert "Filesystem volume name:   cm-disk" in features
    assert "has_journal" in features


@pytest.mark.parametrize("size", [-1, 0, 63, 5 * 1024 * 1024])
async def test_a_size_out_of_bounds_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(InvalidInput, match=f"^size_mib must be 64 to 4194304, got {size}$"):
        await make_disk(tmp_path / "disk", size)
    assert list(tmp_path.iterdir()) == []


async def test_an_existing_disk_is_left_alone(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"precious")
    with pytest.raises(Conflict):
        await make_disk(disk, 64)
    assert disk.read_bytes() == b"precious"


async def test_a_missing_directory_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(HostExhausted):
        await make_disk(tmp_path / "no" / "disk", 64)
    assert list(tmp_path.iterdir()) == []
