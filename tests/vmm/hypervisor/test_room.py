from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmm.errors import HostExhausted, Unavailable
from vmm.hypervisor.disk_space import dig_holes, raise_if_full, require

_MIB = 1024 * 1024


def taken(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize(
    ("parts", "most"),
    [
        ([bytes(4 * _MIB)], 0),
        ([os.urandom(_MIB), bytes(3 * _MIB), os.urandom(_MIB)], 2 * _MIB),
        ([bytes(_MIB // 2), os.urandom(16384), bytes(_MIB)], 2 * 16384),
        ([os.urandom(5000), bytes(100_000), b"end"], 40_000),
    ],
    ids=["nothing", "a hole inside", "an island", "a crooked size"],
)
def test_zeros_are_replaced_by_holes_and_the_content_stays(tmp_path: Path, parts: list[bytes], most: int) -> None:
    path = tmp_path / "ram"
    content = b"".join(parts)
    path.write_bytes(content)
    os.sync()
    before = taken(path)
    dig_holes(path)
    assert path.read_bytes() == content
    assert taken(path) <= most < before
    dig_holes(path)
    assert path.read_bytes() == content


def test_a_file_without_zeros_does_not_change(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(os.urandom(_MIB))
    os.sync()
    before = taken(path)
    dig_holes(path)
    assert taken(path) == before


def test_only_a_full_disk_is_reported_as_full(tmp_path: Path) -> None:
    raise_if_full(Unavailable("it broke"), tmp_path)
    with pytest.raises(HostExhausted, match="disk is full") as full:
        raise_if_full(Unavailable("cannot write: No space left on device (os error 28)"), tmp_path)
    assert full.value.hint


def test_a_file_that_does_not_fit_on_the_disk_is_refused(tmp_path: Path) -> None:
    require(tmp_path, 1)
    with pytest.raises(HostExhausted, match="no space for 1099511627776 MiB"):
        require(tmp_path, 1 << 60)
