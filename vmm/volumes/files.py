"""The volumes' files: sparse raw disks, each of which appears as a whole.

    volumes/<id>.img

A file that no record names is logged and stays, since somebody's data is in it: the store may have been replaced.
"""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import structlog

from ..disk.copy import copy_sparse, sync_directory
from ..disk.os_errors import translate_os_errors
from ..images.disk import make_volume

log = structlog.get_logger(__name__)

_SUFFIX = ".img"
_DRAFT = ".draft-"


class VolumeFiles:
    """The files below one directory.

    Args:
        root: Their directory; used by this object alone.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """Their directory."""
        return self._root

    def path(self, volume_id: str) -> Path:
        """Return the file of a volume."""
        return self._root / f"{volume_id}{_SUFFIX}"

    async def make(self, volume_id: str, size_mib: int) -> None:
        """Make an empty file system.

        Raises:
            HostExhausted: The host's disk is full; nothing is left.
            Unavailable: The host cannot make one.
        """
        draft = self._root / f"{_DRAFT}{volume_id}"
        with translate_os_errors("a volume", self._root):
            await make_volume(draft, size_mib)
            await anyio.to_thread.run_sync(self._publish, draft, volume_id)

    async def copy(self, source: Path, volume_id: str) -> None:
        """Make a copy of a file that nobody writes to meanwhile; a reflink where the file system has them.

        Raises:
            HostExhausted: The host's disk is full; nothing is left.
            Unavailable: The host refuses it.
        """
        draft = self._root / f"{_DRAFT}{volume_id}"
        with translate_os_errors("a copy of a volume", self._root):
            await copy_sparse(source, draft)
            await anyio.to_thread.run_sync(self._publish, draft, volume_id)

    async def remove(self, volume_id: str) -> None:
        """Remove a volume's file, and what an interrupted step left of one. May be repeated.

        Raises:
            Unavailable: The host refuses it.
        """
        with translate_os_errors("removing a volume", self._root):
            await anyio.to_thread.run_sync(self._remove, volume_id)

    async def sweep(self, known: set[str]) -> None:
        """Make the directory, remove what interrupted steps left in it, and log files that no record names.

        Args:
            known: The ids of all volumes.

        Raises:
            HostExhausted: The directory cannot be made.
            Unavailable: Likewise.
        """
        with translate_os_errors("the directory of volumes", self._root):
            await anyio.to_thread.run_sync(self._sweep, known)

    def _publish(self, draft: Path, volume_id: str) -> None:
        descriptor = os.open(draft, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.rename(self.path(volume_id))
        sync_directory(self._root)

    def _remove(self, volume_id: str) -> None:
        for path in (self.path(volume_id), *self._root.glob(f"{_DRAFT}{volume_id}*")):
            path.unlink(missing_ok=True)

    def _sweep(self, known: set[str]) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._root.iterdir():
            if path.name.startswith(_DRAFT):
                path.unlink(missing_ok=True)
            elif path.suffix == _SUFFIX and path.stem not in known:
                log.warning("volume without a record", path=str(path))
