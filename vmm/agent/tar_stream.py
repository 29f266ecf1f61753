"""Reading a tar stream that arrives in pieces: generators that return members and content, and wait for more data.

Each of these generators requests the next piece of the stream with a bare `yield`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from . import tar
from .tally import COMMENT, Tally

_MAX_RECORDS = 4 * 1024 * 1024
_MAX_MAP = 1024 * 1024

T = TypeVar("T")
Waiting = Generator[None, bytes, T]


class TarStream:
    """The part of a stream that has arrived and was not read yet."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._shared: dict[bytes, bytes] = {}
        self._records = 0

    def member(self, tally: Tally) -> Waiting[tar.Member | None]:
        """Read the header of the next member, whose content follows; None at the archive's end.

        Args:
            tally: Gets the entries that the archive lists as skipped.

        Raises:
            TarError: The stream is not a valid tar archive.
        """
        records: dict[bytes, bytes] = {}
        while True:
            member = tar.unpack((yield from self.take(tar.BLOCK)))
            if member is None:
                return None
            match member.kind:
                case tar.GLOBAL_RECORDS:
                    self._shared |= tar.read_records((yield from self._extended(member.size)))
                case tar.RECORDS:
                    records |= tar.read_records((yield from self._extended(member.size)))
                case tar.LONG_NAME | tar.LONG_LINK:
                    name = b"path" if member.kind == tar.LONG_NAME else b"linkpath"
                    records[name] = (yield from self._extended(member.size)).partition(b"\0")[0]
                case _:
                    if comment := records.get(COMMENT):
                        tally.add_comment(comment)
                    tar.apply(member, self._shared | records)
                    if not self._shared:
                        self._records = 0
                    return member

    def sparse_map(self, member: tar.Member) -> Waiting[tuple[list[tuple[int, int]], int]]:
        """Read the map of a sparse file: offset and length of its data segments, and the map's own size in bytes.

        Raises:
            TarError: The map is malformed or does not fit the file.
        """
        numbers: list[int] = []
        text = b""
        taken = 0
        while not numbers or len(numbers) < 1 + 2 * numbers[0]:
            if taken >= min(member.size, _MAX_MAP):
                raise tar.TarError("a sparse file's map does not end")
            text += yield from self.take(tar.BLOCK)
            taken += tar.BLOCK
            *lines, text = text.split(b"\n")
            numbers += [tar.whole_number(line) for line in lines if not line.startswith(b"\0")]
        pairs = list(zip(numbers[1::2], numbers[2::2], strict=False))[: numbers[0]]
        whole = member.whole or 0
        if taken + sum(length for _, length in pairs) > member.size or any(sum(pair) > whole for pair in pairs):
            raise tar.TarError("a sparse file's map does not fit its content")
        return pairs, taken

    def take(self, size: int) -> Waiting[bytes]:
        """Read exactly `size` bytes."""
        buffer = self._buffer
        while len(buffer) < size:
            buffer += yield
        taken = bytes(buffer[:size])
        del buffer[:size]
        return taken

    def some(self, limit: int) -> Waiting[bytes]:
        """Read what is buffered, or the next piece: at least one byte, at most `limit`."""
        buffer = self._buffer
        while not buffer:
            buffer += yield
        taken = bytes(buffer[:limit])
        del buffer[:limit]
        return taken

    def _extended(self, size: int) -> Waiting[bytes]:
        self._records += size
        if self._records > _MAX_RECORDS:
            raise tar.TarError(f"extended headers must be at most {_MAX_RECORDS} bytes, got {self._records}")
        return (yield from self.take(size + -size % tar.BLOCK))[:size]
