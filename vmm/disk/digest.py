"""Digests of sparse files, and how to tell without reading a file that it has not changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from ..errors import Unavailable
from .record_file import RecordFile
from .sparse import data_runs

_STEP = 4 * 1024 * 1024


class FileDigest(TypedDict):
    """A file's digest: SHA-256 (hex) over its data with their offsets, size and time of change (ns), and its inode."""

    sha256: str
    size: int
    mtime_ns: int
    inode: int


def digest(path: Path) -> FileDigest:
    """Digest a file's data, but not its holes, and sync it to the disk. Blocks: call it in a thread."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        status = os.fstat(file.fileno())
        total.update(status.st_size.to_bytes(8))
        for offset, data in _pieces(file.fileno()):
            # Zeros do not count as data, because file systems differ in what they store as holes.
            if data.count(0) != len(data):
                total.update(offset.to_bytes(8))
                total.update(data)
    return {
        "sha256": total.hexdigest(),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "inode": status.st_ino,
    }


def written(file: RecordFile) -> FileDigest:
    """Read a digest from a file.

    Raises:
        Damaged: It cannot be read.
    """
    return {
        "sha256": file.text("sha256"),
        "size": file.number("size"),
        "mtime_ns": file.number("mtime_ns"),
        "inode": file.number("inode"),
    }


def check(path: Path, known: FileDigest) -> None:
    """Check that a file is unchanged; reads it only if its metadata has changed. Blocks: call it in a thread.

    Raises:
        Unavailable: It has changed.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise Unavailable(f"{path.name} is missing") from None
    if status.st_size != known["size"]:
        raise Unavailable(f"{path.name} must have {known['size']} bytes, got {status.st_size}")
    touched = (status.st_mtime_ns, status.st_ino) != (known["mtime_ns"], known["inode"])
    if touched and digest(path)["sha256"] != known["sha256"]:
        raise Unavailable(f"{path.name} has changed since it was saved")


def _pieces(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """Read the data, in steps at fixed positions that do not depend on the file system's holes."""
    after = 0
    for start, end in data_runs(descriptor):
        for step in range(max(after, start - start % _STEP), end, _STEP):
            yield step, os.pread(descriptor, _STEP, step)
            after = step + _STEP
