"""The data segments of sparse files, so that their holes need not be copied or sent."""

from __future__ import annotations

import errno
import os

_MOST_SEGMENTS = 20_000
_SECTOR = 512


def sparse_map(descriptor: int, status: os.stat_result) -> list[tuple[int, int]] | None:
    """Return start and length of each data segment; None if the file has no holes, or too many, or they are unknown."""
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
                if error.errno != errno.ENXIO:  # ENXIO: only a hole is left.
                    raise
                break
            at = os.lseek(descriptor, start, os.SEEK_HOLE)
            segments.append((start, min(at, size) - start))
            if len(segments) > _MOST_SEGMENTS:
                return None
    except OSError:
        return None  # The file system does not support SEEK_DATA.
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    if segments == [(0, size)]:
        return None
    # An empty last segment marks the end of a file that ends in a hole, as in GNU tar's sparse format.
    return segments if segments and sum(segments[-1]) == size else [*segments, (size, 0)]
