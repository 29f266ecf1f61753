"""The volumes that keep sessions' files when their sandboxes are deleted unused: one for each owner and session."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import structlog

from vmm.errors import CasemateError, NotFound
from vmm.sandboxes.volume_mount import VolumeMount

from .names import volume_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from vmm.fleet import Fleet
    from vmm.volumes.volume import Volume

    from .rules import Home, Rules

_log = structlog.stdlib.get_logger("casemate.sessions")


class KeptFiles:
    """Finds, makes and deletes the volumes of sessions. The caller sees to one change of a session at a time.

    Args:
        fleet: The running fleet.
        rules: The limits of sessions.
        home: Where their files are inside.
    """

    def __init__(self, fleet: Fleet, rules: Rules, home: Home) -> None:
        self._fleet = fleet
        self._size = rules.volume_mib
        self._path = home.workspace

    async def exist(self, owner: str, session_id: str) -> bool:
        """Tell whether there is a volume with files of a session, whatever became of its sandbox."""
        return await self._find(owner, session_id) is not None

    @asynccontextmanager
    async def for_new(self, owner: str, session_id: str, created_by: str) -> AsyncGenerator[tuple[VolumeMount, ...]]:
        """Give a block that creates a session's sandbox what to mount; a volume made for it goes if the block fails.

        Raises:
            LimitExceeded: The owner has reached the limit on volumes.
            HostExhausted: The host's disk is full.
        """
        if not self._size:
            yield ()
            return
        found = await self._find(owner, session_id)
        volume = found or await self._fleet.volumes.create(
            owner, volume_name(session_id), size=self._size, created_by=created_by
        )
        try:
            yield (VolumeMount(volume=volume.id, path=self._path),)
        except BaseException:
            if found is None:
                with anyio.CancelScope(shield=True):
                    await self._discard(owner, volume)
            raise

    async def delete(self, owner: str, session_id: str) -> bool:
        """Delete the volume of a session that has no sandbox any more, and tell whether there was one."""
        volume = await self._find(owner, session_id)
        if volume is not None:
            await self._fleet.volumes.delete(owner, volume.id)
        return volume is not None

    async def _find(self, owner: str, session_id: str) -> Volume | None:
        try:
            return await self._fleet.volumes.get(owner, volume_name(session_id))
        except NotFound:
            return None

    async def _discard(self, owner: str, volume: Volume) -> None:
        try:
            await self._fleet.volumes.delete(owner, volume.id)
        except CasemateError as error:
            _log.warning("volume not removed", volume=volume.id, reason=error.message)
