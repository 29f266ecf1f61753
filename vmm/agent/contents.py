"""A file as a member of an archive: header, content, padding. What is promised comes, whatever happens to the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from . import tar
from .holes import sparse_map
from .tally import Tally

CHUNK = 128 * 1024
"""Bytes that are read at once; of files up to this size what the kernel says of it is not needed."""

_MOST_HELD = 4 * 1024 * 1024
_PAGE = 4096


def member_of(
    path: bytes, status: os.stat_result, kind: bytes, *, size: int = 0, link: bytes = b"", whole: int | None = None
) -> tar.Member:
    """A member with a file's mode, owner and time."""
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
    """A regular file.

    Args:
        descriptor: Open for reading, at its beginning.
        path: Its name in the archive.
        status: What the kernel says of it.
        tally: Gets the file, or why it is left out or not whole.

    Raises:
        OSError: A small one cannot be read; nothing of it has been given then.
    """
    if status.st_size > CHUNK:
        yield from _large(descriptor, path, status, tally)
        return
    data = os.read(descriptor, max(status.st_size + 1, _PAGE))
    if len(data) != status.st_size:  # The kernel makes it up, or it changes.
        whole = bytearray(data)
        while data and len(whole) <= _MOST_HELD:
            data = os.read(descriptor, CHUNK)
            whole += data
        if data:
            tally.skip(path, "it is longer than it says, and does not end")
            return
        data = bytes(whole)
    tally.files += 1
    tally.size += len(data)
    yield tar.pack(member_of(path, status, tar.REGULAR, size=len(data))) + data + tar.padding(len(data))


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
    trouble = ""
    for start, length in segments:
        done = 0
        while done < length:
            piece = b""
            if not trouble:
                try:
                    piece = os.pread(descriptor, min(CHUNK, length - done), start + done)
                    trouble = "" if piece else "it became shorter while it was read"
                except OSError as error:
                    trouble = os.strerror(error.errno or 0)
            piece = piece or bytes(min(CHUNK, length - done))  # The header has promised so many.
            done += len(piece)
            tally.size += len(piece)
            yield piece
    yield tar.padding(size)
    if trouble:
        tally.skip(path, f"{trouble}; the rest of it is zeros")
