"""A file as a member of an archive: header, content, padding.

The stream always has as many bytes as the header says, even if the file changes or cannot be read to its end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from . import tar
from .holes import sparse_map
from .tally import Tally

CHUNK = 128 * 1024
"""Bytes per read. Files up to this size are packed with the size that was read, not the one that the kernel reports."""

_MAX_BUFFERED = 4 * 1024 * 1024
_PAGE = 4096


def member_of(
    path: bytes, status: os.stat_result, kind: bytes, *, size: int = 0, link: bytes = b"", whole: int | None = None
) -> tar.Member:
    """Return a member with a file's mode, owner and time."""
    return tar.Member(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=size,
        mtime_ns=status.st_mtime_ns,
        link=link,
        whole=whole,
    )


def pack_content(descriptor: int, path: bytes, status: os.stat_result, tally: Tally) -> Iterator[bytes]:
    """Yield a regular file as a member of an archive.

    Args:
        descriptor: The file, open for reading at its beginning.
        path: Its name in the archive.
        status: Its status from the kernel.
        tally: Counts the file, or records why it is left out or incomplete.

    Raises:
        OSError: A small file cannot be read; nothing of it has been yielded.
    """
    if status.st_size > CHUNK:
        yield from _large(descriptor, path, status, tally)
        return
    data = read_small(descriptor, path, status, tally)
    if data is not None:
        tally.files += 1
        tally.size += len(data)
        yield tar.pack(member_of(path, status, tar.REGULAR, size=len(data))) + data + tar.padding(len(data))


def read_small(descriptor: int, path: bytes, status: os.stat_result, tally: Tally) -> bytes | None:
    """Read a file of at most CHUNK bytes to its real end; None if it is much longer than the kernel reports.

    Args:
        descriptor: The file, open for reading at its beginning.
        path: Its name in the archive.
        status: Its status from the kernel.
        tally: Records why the file is left out.

    Raises:
        OSError: It cannot be read.
    """
    data = os.read(descriptor, max(status.st_size + 1, _PAGE))
    if len(data) == status.st_size:
        return data
    whole = bytearray(data)  # The kernel generates it, or it is changing.
    while data and len(whole) <= _MAX_BUFFERED:
        data = os.read(descriptor, CHUNK)
        whole += data
    if data:
        tally.skip(path, f"its size is {status.st_size} bytes, but reading it gives more than {_MAX_BUFFERED} bytes")
        return None
    return bytes(whole)


def _large(descriptor: int, path: bytes, status: os.stat_result, tally: Tally) -> Iterator[bytes]:
    segments = sparse_map(descriptor, status)
    if segments is None:
        segments, size = [(0, status.st_size)], status.st_size
        head = tar.pack(member_of(path, status, tar.REGULAR, size=size))
    else:
        index = b"".join(b"%d\n" % number for pair in ((len(segments),), *segments) for number in pair)
        index += tar.padding(len(index))
        size = len(index) + sum(length for _, length in segments)
        head = tar.pack(member_of(path, status, tar.REGULAR, size=size, whole=status.st_size)) + index
    tally.files += 1
    yield head
    problem = ""
    for start, length in segments:
        done = 0
        while done < length:
            piece = b""
            if not problem:
                try:
                    piece = os.pread(descriptor, min(CHUNK, length - done), start + done)
                    problem = "" if piece else "it was truncated while it was read"
                except OSError as error:
                    problem = os.strerror(error.errno or 0)
            piece = piece or bytes(min(CHUNK, length - done))  # The header has stated the size.
            done += len(piece)
            tally.size += len(piece)
            yield piece
    yield tar.padding(size)
    if problem:
        tally.skip(path, f"{problem}; the rest is zeros")
