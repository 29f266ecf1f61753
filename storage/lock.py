"""A lock that one process holds as long as it lives, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from .errors import StoreFull, StoreLocked, StoreReadOnly

_PATIENCE_S = 0.5
_POLL_S = 0.01


def take(descriptor: int) -> None:
    """Lock an open file for this process alone. Blocks for half a second at most.

    A server that was killed while it started a program leaves its locks to that program, until it is another one.

    Raises:
        BlockingIOError: Another process has it.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
        time.sleep(_POLL_S)


class FileLock:
    """The lock on a file; the kernel releases it when the process ends, kill -9 included.

    Args:
        path: The lock file, made if it is missing and left behind: removing it would let two processes hold two files.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take it, or say who has it.

        Raises:
            StoreLocked: Another process has it.
            StoreReadOnly: The lock file cannot be made.
            StoreFull: The disk has no room for it.
        """
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreReadOnly(f"Cannot write {self._path}: {error.strerror}; check the directory's owner") from error
        try:
            take(fd)
        except BlockingIOError as error:
            holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise StoreLocked(
                f"The store is in use by process {holder} ({self._path}); stop that server, "
                "or choose another data directory"
            ) from error
        self._fd = fd
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise StoreFull(f"Cannot write {self._path}: {error.strerror}; free disk space") from error

    def release(self) -> None:
        """Let it go; a no-op without it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
