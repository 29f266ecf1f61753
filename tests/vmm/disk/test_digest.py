"""A digest says what a file holds, not how a file system keeps it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmm.disk.digest import check, digest
from vmm.errors import Unavailable

MIB = 1024 * 1024
ISLANDS = st.dictionaries(st.integers(0, 9 * MIB), st.binary(min_size=1, max_size=9000), max_size=4)


def write(path: Path, islands: dict[int, bytes], *, dense: bool) -> None:
    with path.open("wb") as file:
        if dense:
            file.write(bytes(10 * MIB))
        file.truncate(10 * MIB)
        for offset, data in islands.items():
            file.seek(offset)
            file.write(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(islands=ISLANDS)
def test_holes_and_zeros_have_the_same_digest(tmp_path: Path, islands: dict[int, bytes]) -> None:
    write(tmp_path / "sparse", islands, dense=False)
    write(tmp_path / "dense", islands, dense=True)
    assert digest(tmp_path / "sparse")["sha256"] == digest(tmp_path / "dense")["sha256"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(islands=ISLANDS, at=st.integers(0, 10 * MIB - 1))
def test_any_changed_byte_changes_the_digest(tmp_path: Path, islands: dict[int, bytes], at: int) -> None:
    path = tmp_path / "file"
    write(path, islands, dense=False)
    before = digest(path)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(Unavailable, match="has changed since it was saved"):
        check(path, before)


def test_a_touched_file_is_read_again_and_an_untouched_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    known = digest(path)
    os.utime(path, ns=(1, 1))
    check(path, known)
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(known["mtime_ns"], known["mtime_ns"]))
    check(path, known)  # who sets the time back is not found without reading, and reading is not free


def test_a_missing_or_truncated_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    known = digest(path)
    path.write_bytes(b"cont")
    with pytest.raises(Unavailable, match="file must have 7 bytes, got 4"):
        check(path, known)
    path.unlink()
    with pytest.raises(Unavailable, match="file is missing"):
        check(path, known)
