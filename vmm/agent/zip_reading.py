"""A zip archive in a file, translated into a tar stream, so that both are unpacked by the same code.

The archive is read by its central directory, of which only one entry is in memory at a time.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Iterator

from . import tar, zip_headers
from .archive_limits import Budget
from .compression import inflate
from .tally import Tally
from .zip_headers import CENTRAL, DEFLATED, ENCRYPTED, LOCAL, MAX_16, MAX_32, STORED, Directory, Entry, ZipError

_CHUNK = 128 * 1024
_MAX_LINK = 4095
_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644
_KINDS = {
    0: tar.REGULAR,
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMBOLIC,
    stat.S_IFIFO: tar.FIFO,
    stat.S_IFCHR: tar.CHARACTER_DEVICE,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
}


class ZipSource:
    """Reads one archive.

    Args:
        descriptor: The file, open for reading.
        size: Its size in bytes.
        tally: Gets the entries that are skipped because they cannot be read.
        budget: Limits the content.
    """

    def __init__(self, descriptor: int, size: int, tally: Tally, budget: Budget) -> None:
        self._descriptor = descriptor
        self._size = size
        self._tally = tally
        self._budget = budget
        self._offset = 0
        self._claimed = 0

    def tar(self) -> Iterator[bytes]:
        """Yield the archive as a tar stream.

        Raises:
            ZipError: It is not a valid zip archive.
            CompressionError: Its content is damaged.
            LimitError: It has too much content.
        """
        directory = self._directory()
        count, at = 0, directory.at
        while at < directory.at + directory.size:
            entry, at = self._entry(at)
            count += 1
            yield from self._member(entry, directory.at)
        if count & MAX_16 != directory.entries & MAX_16 or at != directory.at + directory.size:
            raise ZipError("its central directory is damaged")
        yield tar.END

    def _directory(self) -> Directory:
        """Find the central directory, and how much data precedes the archive in the file."""
        start = max(self._size - zip_headers.END.size - MAX_16, 0)
        tail = self._read(start, self._size - start)
        at = tail.rfind(zip_headers.END_MARK)
        if at < 0 or len(tail) - at < zip_headers.END.size:
            raise ZipError("not a valid zip archive, or a truncated one: it has no end record")
        _, disk, first, _, count, size, offset, _ = zip_headers.END.unpack_from(tail, at)
        end = start + at
        if MAX_16 in (disk, first, count) or MAX_32 in (size, offset):
            disk, first, count, size, offset, end = self._wide_end(end) or (disk, first, count, size, offset, end)
        if disk or first:
            raise ZipError("it is one part of an archive in several files")
        self._offset = end - size - offset
        if self._offset < 0:
            raise ZipError("it is truncated, or its end record is damaged")
        return Directory(entries=count, size=size, at=end - size)

    def _wide_end(self, end: int) -> tuple[int, int, int, int, int, int] | None:
        """Return the fields of a Zip64 end record, and where it is; None if there is none."""
        at = end - zip_headers.LOCATOR.size - zip_headers.END_64.size
        if at < 0:
            return None
        data = self._read(at, zip_headers.END_64.size + zip_headers.LOCATOR.size)
        if not data[zip_headers.END_64.size :].startswith(zip_headers.LOCATOR_MARK):
            return None
        mark, _, _, _, disk, first, _, count, size, offset = zip_headers.END_64.unpack_from(data)
        if mark != zip_headers.END_64_MARK:
            raise ZipError("its Zip64 end record is damaged")
        return disk, first, count, size, offset, at

    def _entry(self, at: int) -> tuple[Entry, int]:
        """Read a header of the central directory, and return where the next one is."""
        head = self._read(at, CENTRAL.size)
        if not head.startswith(zip_headers.CENTRAL_MARK):
            raise ZipError("its central directory is damaged")
        name, extra, comment = CENTRAL.unpack(head)[10:13]
        at += CENTRAL.size
        rest = self._read(at, name + extra)
        return zip_headers.entry_of(head, rest[:name], rest[name:]), at + name + extra + comment

    def _member(self, entry: Entry, end: int) -> Iterator[bytes]:
        """Yield an entry as a member.

        Args:
            entry: The entry.
            end: Where the central directory begins.
        """
        self._claimed += LOCAL.size + entry.packed
        if self._claimed > self._size:
            raise ZipError("its entries overlap")
        kind = tar.DIRECTORY if entry.name.endswith(b"/") else _KINDS.get(stat.S_IFMT(entry.mode), b"")
        refusal = _refusal(entry, kind)
        if refusal:
            self._tally.skip(entry.name, refusal)
            yield b""
            return
        mode = stat.S_IMODE(entry.mode or (_DIRECTORY_MODE if kind == tar.DIRECTORY else _FILE_MODE))
        member = tar.Member(path=entry.name, kind=kind, mode=mode, mtime_ns=entry.mtime * 10**9)
        if kind == tar.SYMBOLIC:
            member.link = b"".join(self._content(entry, end))
        elif kind == tar.REGULAR:
            member.size = entry.size
        yield tar.pack(member)
        if kind == tar.REGULAR:
            yield from self._content(entry, end)
            yield tar.padding(entry.size)

    def _content(self, entry: Entry, end: int) -> Iterator[bytes]:
        """Yield an entry's content, whose size and checksum are those in the central directory."""
        at = self._offset + entry.at
        head = self._read(at, LOCAL.size)
        if not head.startswith(zip_headers.LOCAL_MARK):
            raise ZipError("an entry's header is damaged")
        at += LOCAL.size + sum(LOCAL.unpack(head)[9:11])
        if at + entry.packed > end:
            raise ZipError("an entry reaches beyond the archive's end")
        read = self._reader(at, entry.packed)
        size, crc = 0, 0
        for piece in inflate(read) if entry.method == DEFLATED else iter(read, b""):
            size += len(piece)
            if size > entry.size:
                break
            self._budget.take(len(piece))
            crc = zlib.crc32(piece, crc)
            yield piece
        if (size, crc) != (entry.size, entry.crc):
            raise ZipError("an entry's content does not fit its size or checksum")

    def _reader(self, at: int, size: int) -> Callable[[], bytes]:
        """Return a function that reads the next bytes of a range; none at its end."""
        end = at + size

        def read() -> bytes:
            nonlocal at
            data = os.pread(self._descriptor, min(_CHUNK, end - at), at)
            at += len(data)
            return data

        return read

    def _read(self, at: int, size: int) -> bytes:
        # The offsets of a damaged archive may be larger than the kernel accepts.
        data = os.pread(self._descriptor, size, at) if at + size <= self._size else b""
        if len(data) < size:
            raise ZipError("it is truncated")
        return data


def _refusal(entry: Entry, kind: bytes) -> str:
    """Say why an entry cannot be unpacked; empty if it can."""
    if not kind:
        return "a socket, or an unknown file type"
    if kind not in {tar.REGULAR, tar.SYMBOLIC}:
        return ""
    if entry.flags & ENCRYPTED:
        return "it is encrypted"
    if entry.method not in {STORED, DEFLATED}:
        return f"it is compressed by method {entry.method}; methods {STORED} and {DEFLATED} are known"
    return "its link is too long" if kind == tar.SYMBOLIC and entry.size > _MAX_LINK else ""
