from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.agent.output import OutputLog
from vmm.agent.spool import MOST, TOTAL, Spools


@contextmanager
def spools(most: int = MOST, total: int = TOTAL) -> Generator[Spools]:
    with TemporaryDirectory() as place:
        directory = os.open(place, os.O_RDONLY)
        try:
            yield Spools(directory, most=most, total=total)
            assert not list(Path(place).iterdir())
        finally:
            os.close(directory)


PIECES = st.lists(st.binary(max_size=40), max_size=30)


def log_of(
    pieces: list[bytes], head: int = 16, tail: int = 32, spools: Spools | None = None
) -> tuple[OutputLog, bytes]:
    log = OutputLog(head=head, tail=tail, spools=spools)
    for piece in pieces:
        log.append(piece)
    return log, b"".join(pieces)


@given(PIECES, st.integers(0, 40), st.integers(0, 40))
def test_all_bytes_are_counted_and_at_most_the_limits_are_kept(pieces: list[bytes], head: int, tail: int) -> None:
    log, whole = log_of(pieces, head, max(tail, 1))
    assert log.total == len(whole)
    assert log.kept <= head + max(tail, 1)
    assert log.kept == min(len(whole), head + max(tail, 1))


@given(PIECES, st.integers(0, 400), st.integers(1, 100))
def test_a_read_returns_the_bytes_written_at_that_offset(pieces: list[bytes], offset: int, limit: int) -> None:
    log, whole = log_of(pieces)
    start, data = log.read(offset, limit)
    assert data == whole[start : start + len(data)]
    assert len(data) <= limit
    assert start >= min(offset, len(whole))


@given(PIECES)
def test_successive_reads_return_all_kept_bytes(pieces: list[bytes]) -> None:
    log, whole = log_of(pieces)
    offset, read = 0, 0
    while offset < log.total:
        start, data = log.read(offset, 7)
        assert data
        assert data == whole[start : start + len(data)]
        read += len(data)
        offset = start + len(data)
    assert read == log.kept


@given(PIECES, st.integers(0, 50), st.integers(0, 50))
def test_ends_returns_the_first_and_the_last_bytes(pieces: list[bytes], head: int, tail: int) -> None:
    log, whole = log_of(pieces)
    first, last = log.ends(head, tail)
    assert whole.startswith(first)
    assert whole.endswith(last)
    assert len(first) + len(last) <= len(whole)
    assert len(last) <= tail
    if len(whole) <= min(head + tail, 48):
        assert (first, last) == (whole, b"")
    else:
        assert len(first) >= min(head, 16)
        kept = len(whole) if len(whole) <= 48 else 32  # everything, or the ring
        assert len(last) == min(tail, kept, len(whole) - len(first))


@given(PIECES, st.integers(0, 50), st.integers(0, 50), st.integers(0, 400), st.booleans())
def test_with_a_spool_nothing_is_dropped(pieces: list[bytes], head: int, tail: int, offset: int, shed: bool) -> None:
    with spools() as made:
        log, whole = log_of(pieces, spools=made)
        if shed:
            log.shed()
        assert log.ends(len(whole), 0) == (whole, b"")
        first, last = log.ends(head, tail)
        assert (first, last) == (whole, b"") or (first, last) == (whole[:head], whole[len(whole) - tail :])
        start, data = log.read(offset, 7)
        assert start == min(offset, len(whole))
        assert data == whole[start : start + len(data)]
        assert data or start == len(whole)


@given(PIECES, st.integers(0, 200), st.integers(0, 200))
def test_what_a_spool_refuses_is_dropped_between_its_end_and_the_ring(
    pieces: list[bytes], most: int, total: int
) -> None:
    with spools(most=most, total=total) as made:
        log, whole = log_of(pieces)
        spooled, _ = log_of(pieces, spools=made)
        assert made.used <= min(most, total)
        offset, read = 0, 0
        while offset < spooled.total:
            start, data = spooled.read(offset, 7)
            assert data == whole[start : start + len(data)]
            assert data
            read += len(data)
            offset = start + len(data)
        assert read >= log.kept
        del spooled
        assert made.used == 0


def test_a_log_that_fits_into_memory_has_no_file() -> None:
    with spools() as made:
        log, _ = log_of([b"x" * 16], spools=made)
        assert made.used == 0
        log.append(b"y")
        assert made.used == 17


def test_a_disk_that_is_nearly_full_ends_a_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstatvfs

    def full(descriptor: int) -> os.statvfs_result:
        found = list(real(descriptor))
        found[4] = 0  # f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "fstatvfs", full)
    with spools() as made:
        log, whole = log_of([b"abcdefgh"] * 10, spools=made)
        assert made.used == 0
        assert log.kept == 48
        assert log.ends(8, 8) == (whole[:8], whole[-8:])


def test_without_a_directory_for_it_memory_is_all_there_is() -> None:
    log, _ = log_of([b"x" * 100], spools=Spools(-1))
    assert log.kept == 48


@given(PIECES, PIECES)
def test_a_log_keeps_correct_offsets_after_shed(before: list[bytes], after: list[bytes]) -> None:
    log, whole = log_of(before)
    log.shed()
    assert log.kept == 0
    for piece in after:
        log.append(piece)
    whole += b"".join(after)
    assert log.total == len(whole)
    start, data = log.read(0, 1000)
    assert data == whole[start:]
