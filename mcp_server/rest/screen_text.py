"""A terminal's raw output as text for the wire."""

from __future__ import annotations

_CONTINUATION = range(0x80, 0xC0)
_LONGEST = 3


def from_offset(offset: int, data: bytes) -> bytes:
    """Output from an offset on, without the end of a character whose beginning is no longer kept."""
    skip = 0
    if offset:
        while skip < min(_LONGEST, len(data)) and data[skip] in _CONTINUATION:
            skip += 1
    return data[skip:]
