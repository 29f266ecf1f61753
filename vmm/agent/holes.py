"""Where a file has its content: files with holes are moved without them."""

from __future__ import annotations

import errno
import os

_MOST_SEGMENTS = 20_000
_SECTOR = 512


def sparse_map(descriptor: int, status: os.stat_result) -> list[tuple[int, int]] | None:
    """Begin and length of each part of a file that is no hole; None if it has none worth it."""
    size = status.st_size
    if status.st_blocks * _SECTOR >= size:
        return None
    segments: list[tuple[int, int]] = []
    at = 0
    try:
        while at < size:
            try:
                start = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # There is a hole up to its end.
                    raise
                break
            at = os.lseek(descriptor, start, os.SEEK_HOLE)
            segments.append((start, min(at, size) - start))
            if len(segments) > _MOST_SEGMENTS:
                return None
    except OSError:
        return None  # A file system that does not know of holes.
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    if segments == [(0, size)]:
        return None
    # A last part without content says where the file ends, as GNU tar has it.
    return segments if segments and sum(segments[-1]) == size else [*segments, (size, 0)]
