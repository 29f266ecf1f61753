"""Reading small files relative to a descriptor: after a change of root, the paths of /proc and cgroups would differ."""

from __future__ import annotations

import os

_PIECE = 65536


def read(directory: int, name: str) -> bytes:
    """Return the content of a file below an open directory; empty if it does not exist or its process has ended."""
    try:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    except OSError:
        return b""
    try:
        data = b""
        while piece := os.read(descriptor, _PIECE):
            data += piece
    except OSError:
        return b""  # The process ended after the file was opened.
    else:
        return data
    finally:
        os.close(descriptor)


def processes(directory: int) -> list[str]:
    """Return the process ids in an open /proc, as the names of their directories."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.name.isdigit()]
