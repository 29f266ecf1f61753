"""HTTP's Range header, with a single range of bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONE = re.compile(r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """A part of a file: its offset and its length in bytes (0 if the file ends before it)."""

    start: int
    length: int


def parse_range(header: str, size: int) -> ByteRange | None:
    """Parse a Range header.

    Args:
        header: The header's value.
        size: Size of the whole file, in bytes.

    Returns:
        The range; None to send the whole file, if the header names no range, several, or something else.
    """
    found = _ONE.fullmatch(header.strip())
    if found is None:
        return None
    first, last = found.groups()
    if not first:
        wanted = min(int(last), size) if last else -1
        return ByteRange(start=size - wanted, length=wanted) if wanted >= 0 else None
    start = int(first)
    end = min(int(last), size - 1) if last else size - 1
    if last and int(last) < start:
        return None
    return ByteRange(start=start, length=max(0, end - start + 1))
