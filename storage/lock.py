"""File locks that the kernel releases when their process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from .errors import StoreFull, StoreLocked, StoreReadOnly

_PATIENCE_S = 0.5
_POLL_S = 0.01


def take(descriptor: int) -> None:
    """Lock an open file exclusively. Blocks for half a second at most.

    The wait is for a server that was killed while it started a child process: between fork and exec, the child still
    holds the lock.

    Raises:
        BlockingIOError: Another process holds the lock.
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
    """An exclusive lock on a file; the kernel releases it when the process ends, even after kill -9.

    Args:
        path: The lock file. It is created if missing and never deleted: otherwise two processes could hold locks on
            two different files of this name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StoreLocked: Another process holds it; the message names the process.
            StoreReadOnly: The lock file cannot be created.
            StoreFull: The disk has no space for it.
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
        """Release the lock. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
