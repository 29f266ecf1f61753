from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmm.disk.copy import copy_data, copy_sparse, release, reserve

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024


def sparse_file(path: Path, size: int, islands: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in islands.items():
            file.seek(offset)
            file.write(data)


async def test_a_copy_has_the_same_bytes_and_no_more_blocks(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    sparse_file(source, 256 * MIB, {0: b"head", 100 * MIB: os.urandom(3 * MIB), 256 * MIB - 4: b"tail"})
    await copy_sparse(source, target)
    assert target.stat().st_size == 256 * MIB
    assert target.stat().st_blocks <= source.stat().st_blocks + 64
    assert target.read_bytes() == source.read_bytes()


async def test_a_copy_with_reserved_disk_space_has_the_same_bytes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    sparse_file(source, 64 * MIB, {0: b"head", 20 * MIB: os.urandom(3 * MIB), 64 * MIB - 4: b"tail"})
    await copy_sparse(source, target, reserved=True)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 >= 64 * MIB


async def test_a_copy_is_private_to_its_owner(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    await copy_sparse(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600


async def test_an_existing_target_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        await copy_sparse(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"


async def test_an_empty_target_is_filled_in_place(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").touch(mode=0o660)
    mode = (tmp_path / "target").stat().st_mode
    await copy_sparse(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert (tmp_path / "target").stat().st_mode == mode


async def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "elsewhere").touch()
    (tmp_path / "target").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        await copy_sparse(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "elsewhere").read_bytes() == b""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(islands=st.dictionaries(st.integers(0, 2 * MIB), st.binary(min_size=1, max_size=9000), max_size=5))
def test_holes_are_copied_correctly_without_reflinks(tmp_path: Path, islands: dict[int, bytes]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    sparse_file(source, 3 * MIB, islands)
    with source.open("rb") as read, target.open("wb") as write:
        write.truncate(3 * MIB)
        copy_data(read.fileno(), write.fileno())
    assert target.read_bytes() == source.read_bytes()


async def test_disk_space_for_a_files_holes_can_be_reserved_and_freed(tmp_path: Path) -> None:
    path, copy = tmp_path / "ram", tmp_path / "copy"
    sparse_file(path, 64 * MIB, {0: b"head", 20 * MIB: os.urandom(3 * MIB), 64 * MIB - 4: b"tail"})
    sparse = path.stat().st_blocks
    await reserve(path)
    assert path.stat().st_blocks * 512 >= 64 * MIB
    await copy_sparse(path, copy)
    assert copy.stat().st_blocks <= sparse + 64
    await release(path)
    assert path.stat().st_blocks <= sparse + 64
    assert path.read_bytes() == copy.read_bytes()
    assert path.read_bytes().startswith(b"head")
    await release(tmp_path / "missing")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(islands=st.dictionaries(st.integers(0, 2 * MIB), st.binary(min_size=1, max_size=9000), max_size=5))
def test_reserving_and_freeing_changes_no_byte(tmp_path: Path, islands: dict[int, bytes]) -> None:
    path = tmp_path / "ram"
    sparse_file(path, 3 * MIB, islands)
    before = path.read_bytes()
    anyio.run(reserve, path)
    assert path.read_bytes() == before
    anyio.run(release, path)
    assert path.read_bytes() == before
