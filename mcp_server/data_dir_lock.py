"""A lock that lets one server at a time use a data directory; it names the URL of its holder and ends with it."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from storage.lock import take

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_NAME = "server.lock"
_MOST = 300


class DataDirInUse(Exception):
    """Another process uses the data directory.

    Attributes:
        url: The URL of the other server; empty if it is not known yet.
    """

    def __init__(self, place: Path, url: str, variable: str = "CASEMATE_DATA") -> None:
        where = f", reachable at {url}" if url else ""
        super().__init__(f"Another Casemate uses {place}{where}: stop it first, or set {variable} to another directory")
        self.url = url


class DataDirLock:
    """The lock, while it is held."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def announce(self, url: str) -> None:
        """Record this server's URL for other processes."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, url.encode(), 0)


@contextmanager
def lock_data_dir(data: Path) -> Generator[DataDirLock]:
    """Hold the directory's lock for the duration of a block.

    Raises:
        DataDirInUse: Another process holds it.
        OSError: The directory cannot be written.
    """
    descriptor = os.open(data / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            take(descriptor)
        except BlockingIOError:
            raise DataDirInUse(data, os.pread(descriptor, _MOST, 0).decode("ascii", "ignore")) from None
        lock = DataDirLock(descriptor)
        lock.announce("")
        yield lock
        lock.announce("")
    finally:
        os.close(descriptor)


@contextmanager
def lock_instances(instances: Path) -> Generator[None]:
    """Lock the directory of the machines, which may be elsewhere: two servers on it would end each other's machines.

    Raises:
        DataDirInUse: Another process holds it.
        OSError: The directory cannot be created or opened.
    """
    instances.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(instances, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            take(descriptor)
        except BlockingIOError:
            raise DataDirInUse(instances, "", "CASEMATE_INSTANCES") from None
        yield
    finally:
        os.close(descriptor)


def holder_url(data: Path) -> str:
    """Return the URL of the server that holds the directory; empty if there is none, or it is not known yet."""
    try:
        descriptor = os.open(data / _NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, _MOST, 0).decode("ascii", "ignore")
    finally:
        os.close(descriptor)
    return ""
