from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmm.agent.output import OutputLog

PIECES = st.lists(st.binary(max_size=40), max_size=30)


def log_of(pieces: list[bytes], head: int = 16, tail: int = 32) -> tuple[OutputLog, bytes]:
    log = OutputLog(head=head, tail=tail)
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
        assert len(first) == min(head, 16)
        kept = len(whole) if len(whole) <= 48 else 32  # everything, or the ring
        assert len(last) == min(tail, kept, len(whole) - len(first))


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
