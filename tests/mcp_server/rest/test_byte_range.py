"""The Range header."""

from __future__ import annotations

import pytest

from mcp_server.rest.byte_range import ByteRange, parse_range


@pytest.mark.parametrize(
    ("header", "start", "length"),
    [
        ("bytes=0-", 0, 10),
        ("bytes=0-0", 0, 1),
        ("bytes=3-7", 3, 5),
        ("bytes=3-99", 3, 7),
        ("Bytes = 9 - 9", 9, 1),
        ("bytes=-4", 6, 4),
        ("bytes=-99", 0, 10),
        ("bytes=10-", 10, 0),
        ("bytes=-0", 10, 0),
        ("bytes=99-100", 99, 0),
    ],
)
def test_one_range_is_understood(header: str, start: int, length: int) -> None:
    assert parse_range(header, 10) == ByteRange(start=start, length=length)


@pytest.mark.parametrize(
    "header", ["", "bytes", "bytes=", "bytes=-", "bytes=7-3", "bytes=0-1,4-5", "lines=1-2", "bytes=a-b", "bytes=1-٣"]
)
def test_anything_else_means_the_whole(header: str) -> None:
    assert parse_range(header, 10) is None


def test_a_number_beyond_all_files_means_the_whole() -> None:
    assert parse_range(f"bytes=0-{'9' * 5000}", 10) is None
