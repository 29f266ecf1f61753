"""Entries as members of a tar stream."""

from __future__ import annotations

import os
from collections.abc import Iterator

from . import tar
from .contents import member_of, pack_content
from .tally import COMMENT, Tally


class TarForm:
    """Encodes entries as tar, with hard links and holes.

    Args:
        tally: Counts what is packed, and what is skipped.
        commented: Whether the archive ends with a list of the skipped entries, see COMMENT.
    """

    def __init__(self, tally: Tally, *, commented: bool = False) -> None:
        self._tally = tally
        self._commented = commented
        self._root: tar.Member | None = None
        self._links: dict[tuple[int, int], bytes] = {}

    def directory(self, path: bytes, status: os.stat_result) -> bytes:
        """Encode a directory; the first one is the root of all others."""
        member = member_of(path, status, tar.DIRECTORY)
        self._root = self._root or member
        return tar.pack(member)

    def link(self, path: bytes, status: os.stat_result, target: bytes) -> bytes:
        """Encode a symbolic link."""
        self._tally.files += 1
        return tar.pack(member_of(path, status, tar.SYMBOLIC, link=target))

    def fifo(self, path: bytes, status: os.stat_result) -> bytes:
        """Encode a FIFO."""
        self._tally.files += 1
        return tar.pack(member_of(path, status, tar.FIFO))

    def again(self, path: bytes, status: os.stat_result) -> bytes:
        """Encode a further name of a file that was packed already; empty if it was not."""
        first = self._links.get((status.st_dev, status.st_ino)) if status.st_nlink > 1 else None
        if first is None:
            return b""
        self._tally.files += 1
        return tar.pack(member_of(path, status, tar.HARD, link=first))

    def file(self, descriptor: int, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        """Encode a regular file, open at its beginning.

        Raises:
            OSError: It cannot be read; nothing of it has been yielded.
        """
        yield from pack_content(descriptor, path, status, self._tally)
        if status.st_nlink > 1:
            self._links[status.st_dev, status.st_ino] = path

    def end(self) -> Iterator[bytes]:
        """Encode the end of the archive."""
        if self._commented and self._root is not None and self._tally.skipped:
            self._root.records[COMMENT] = self._tally.comment()
            yield tar.pack(self._root)
        yield tar.END
