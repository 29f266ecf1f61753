"""Cuts a terminal's raw output at whole characters."""

from __future__ import annotations

_CONTINUATION = range(0x80, 0xC0)
_LONGEST = 3


def from_offset(offset: int, data: bytes) -> bytes:
    """Drop the end of a character whose beginning is no longer kept from output that begins at an offset."""
    skip = 0
    if offset:
        while skip < min(_LONGEST, len(data)) and data[skip] in _CONTINUATION:
            skip += 1
    return data[skip:]
