"""A tar stream that is handed over piece by piece: its members, and their content, as generators that wait for more.

Whatever one of these functions needs it asks for with a bare `yield`, which gives the next piece of the stream.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from . import tar
from .tally import COMMENT, Tally

_MOST_RECORDS = 4 * 1024 * 1024
_MOST_MAP = 1024 * 1024

T = TypeVar("T")
Waiting = Generator[None, bytes, T]


class TarStream:
    """What has come of a stream and is not used yet."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._shared: dict[bytes, bytes] = {}
        self._records = 0

    def member(self, tally: Tally) -> Waiting[tar.Member | None]:
        """The next member, whose content is to be read then; None at the archive's end.

        Args:
            tally: Gets what the archive tells of things left out.

        Raises:
            TarError: It is no tar archive.
        """
        records: dict[bytes, bytes] = {}
        while True:
            member = tar.unpack((yield from self.take(tar.BLOCK)))
            if member is None:
                return None
            match member.kind:
                case tar.RECORDS_FOR_ALL:
                    self._shared |= tar.read_records((yield from self._extended(member.size)))
                case tar.RECORDS:
                    records |= tar.read_records((yield from self._extended(member.size)))
                case tar.LONG_NAME | tar.LONG_LINK:
                    name = b"path" if member.kind == tar.LONG_NAME else b"linkpath"
                    records[name] = (yield from self._extended(member.size)).partition(b"\0")[0]
                case _:
                    if comment := records.get(COMMENT):
                        tally.take(comment)
                    tar.apply(member, self._shared | records)
                    if not self._shared:
                        self._records = 0
                    return member

    def holes(self, member: tar.Member) -> Waiting[tuple[list[tuple[int, int]], int]]:
        """Of a file with holes begin and length of its parts, and how many bytes of its content told of them.

        Raises:
            TarError: They do not fit the file.
        """
        numbers: list[int] = []
        text = b""
        taken = 0
        while not numbers or len(numbers) < 1 + 2 * numbers[0]:
            if taken >= min(member.size, _MOST_MAP):
                raise tar.TarError("a file's map of holes does not end")
            text += yield from self.take(tar.BLOCK)
            taken += tar.BLOCK
            *lines, text = text.split(b"\n")
            numbers += [tar.whole_number(line) for line in lines if not line.startswith(b"\0")]
        pairs = list(zip(numbers[1::2], numbers[2::2], strict=False))[: numbers[0]]
        whole = member.whole or 0
        if taken + sum(length for _, length in pairs) > member.size or any(sum(pair) > whole for pair in pairs):
            raise tar.TarError("a file's map of holes does not fit its content")
        return pairs, taken

    def take(self, size: int) -> Waiting[bytes]:
        """Exactly so many bytes."""
        buffer = self._buffer
        while len(buffer) < size:
            buffer += yield
        taken = bytes(buffer[:size])
        del buffer[:size]
        return taken

    def some(self, most: int) -> Waiting[bytes]:
        """What is there, or comes next: at least a byte, and at most so many."""
        buffer = self._buffer
        while not buffer:
            buffer += yield
        taken = bytes(buffer[:most])
        del buffer[:most]
        return taken

    def _extended(self, size: int) -> Waiting[bytes]:
        self._records += size
        if self._records > _MOST_RECORDS:
            raise tar.TarError(f"extended headers of more than {_MOST_RECORDS} bytes")
        return (yield from self.take(size + -size % tar.BLOCK))[:size]
