"""Reading small files below a descriptor: /proc and cgroups, whose paths change their meaning with the root."""

from __future__ import annotations

import os

_PIECE = 65536


def read(directory: int, name: str) -> bytes:
    """All of a file below an open directory; empty if it is not there, or what it tells of has ended meanwhile."""
    try:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    except OSError:
        return b""
    try:
        data = b""
        while piece := os.read(descriptor, _PIECE):
            data += piece
    except OSError:
        return b""  # The process ended between opening and reading.
    else:
        return data
    finally:
        os.close(descriptor)


def processes(directory: int) -> list[str]:
    """The processes that an open /proc has, by the names of their directories."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.name.isdigit()]
