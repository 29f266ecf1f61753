"""Entries as parts of a zip archive, written from its first byte to its last."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator

from . import zip_headers
from .compression import deflate
from .contents import CHUNK, read_small
from .entries import write_all
from .refusals import from_os_error
from .tally import Tally
from .zip_headers import DEFLATED, MAX_16, MAX_32, Directory, Entry

_MAX_BUFFERED = 1024 * 1024
_GROWTH = 2**24
"""Bytes by which deflate makes a file of 4 GiB larger, at most, and more."""


class ZipForm:
    """Encodes entries as zip: compressed one by one. A further name of a file has the content again.

    Args:
        tally: Counts what is packed, and what is skipped.
        spool: A descriptor of an empty file that holds the central directory until the end.
    """

    def __init__(self, tally: Tally, spool: int) -> None:
        self._tally = tally
        self._spool = spool
        self._central = bytearray()
        self._spooled = 0
        self._count = 0
        self._at = 0

    def directory(self, path: bytes, status: os.stat_result) -> bytes:
        """Encode a directory."""
        return self._whole(path, status, b"")

    def link(self, path: bytes, status: os.stat_result, target: bytes) -> bytes:
        """Encode a symbolic link; its content is its target."""
        self._tally.files += 1
        return self._whole(path, status, target)

    def fifo(self, path: bytes, status: os.stat_result) -> bytes:
        """Skip a FIFO."""
        del status
        self._tally.skip(path, "a FIFO, which zip cannot hold")
        return b""

    def again(self, path: bytes, status: os.stat_result) -> bytes:
        """Have a further name of a file packed."""
        del path, status
        return b""

    def file(self, descriptor: int, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        """Encode a regular file, open at its beginning.

        Raises:
            OSError: It cannot be read; nothing of it has been yielded.
        """
        if status.st_size > CHUNK:
            yield from self._large(descriptor, path, status)
            return
        data = read_small(descriptor, path, status, self._tally)
        if data is not None:
            self._tally.files += 1
            self._tally.size += len(data)
            yield self._whole(path, status, data)

    def end(self) -> Iterator[bytes]:
        """Encode the central directory and the end."""
        at, size = self._at, self._spooled + len(self._central)
        for start in range(0, self._spooled, CHUNK):
            yield os.pread(self._spool, min(CHUNK, self._spooled - start), start)
        yield bytes(self._central)
        yield zip_headers.end(Directory(entries=self._count, size=size, at=at))

    def _whole(self, path: bytes, status: os.stat_result, data: bytes) -> bytes:
        """Encode an entry whose content is known."""
        entry = self._entry(path, status)
        if entry is None:
            return b""
        entry.size, entry.crc = len(data), zlib.crc32(data)
        if stat.S_ISREG(entry.mode):
            stream = deflate()
            packed = stream.compress(data) + stream.flush()
            if len(packed) < len(data):
                entry.method, data = DEFLATED, packed
        entry.packed = len(data)
        return self._done(entry, zip_headers.local(entry) + data)

    def _large(self, descriptor: int, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        entry = self._entry(path, status)
        if entry is None:
            return
        entry.method, entry.streamed, entry.large = DEFLATED, True, status.st_size + _GROWTH > MAX_32
        piece = os.read(descriptor, CHUNK)
        self._tally.files += 1
        stream = deflate()
        head = zip_headers.local(entry)
        self._at += len(head)
        yield head
        problem = ""
        while piece:
            packed = stream.compress(piece)
            entry.crc, entry.size = zlib.crc32(piece, entry.crc), entry.size + len(piece)
            entry.packed += len(packed)
            yield packed
            try:
                piece = os.read(descriptor, min(CHUNK, status.st_size - entry.size))
            except OSError as error:
                problem, piece = os.strerror(error.errno or 0), b""
        packed = stream.flush()
        entry.packed += len(packed)
        self._tally.size += entry.size
        self._at += entry.packed
        yield packed + self._done(entry, zip_headers.descriptor(entry))
        if problem or entry.size < status.st_size:
            self._tally.skip(path, f"{problem or 'it was truncated while it was read'}; the rest is missing")

    def _entry(self, path: bytes, status: os.stat_result) -> Entry | None:
        if len(path) > MAX_16:
            self._tally.skip(path, f"its path is longer than {MAX_16} bytes, which zip cannot hold")
            return None
        return Entry(name=path, mode=status.st_mode, mtime=status.st_mtime_ns // 10**9, at=self._at)

    def _done(self, entry: Entry, data: bytes) -> bytes:
        """Add an entry to the central directory, and return its last bytes."""
        self._at += len(data)
        self._count += 1
        self._central += zip_headers.central(entry)
        if len(self._central) > _MAX_BUFFERED:
            self._spool_central()
        return data

    def _spool_central(self) -> None:
        try:
            write_all(self._spool, self._central)
        except OSError as error:
            # Not an error of the entry, which would only be skipped.
            raise from_os_error(error) from error
        self._spooled += len(self._central)
        self._central.clear()
