"""Calls about volumes: disks that the host adds to the machine, mounted in the sandbox by the agent."""

from __future__ import annotations

from .caller import Caller
from .checks import path as checked_path

_FIND_MS = 20_000
_WRITE_S = 60.0
_PAUSE_S = 5.0


class VolumeCalls(Caller):
    """The link's calls about volumes. The guest knows a volume's disk by its serial number."""

    async def mount_volume(self, serial: str, path: str, *, read_only: bool) -> None:
        """Wait for a disk that was just added and mount it; nothing changes if it is mounted there already.

        Raises:
            InvalidInput: The path is one that the sandbox needs for something else.
            Conflict: Another file system is mounted at the path, or the volume must be mounted for writing first.
            GuestError: The guest did not find the disk, or cannot mount it.
        """
        arguments: dict[str, object] = {"serial": serial, "path": checked_path(path), "read_only": read_only}
        await self._call("volume_mount", own_s=_FIND_MS / 1000 + _WRITE_S, limit_ms=_FIND_MS, more=arguments)

    async def unmount_volume(self, serial: str) -> None:
        """Have everything written to a volume, and unmount it; nothing changes if the guest does not have it.

        Raises:
            Conflict: Programs use it; the message names them.
        """
        await self._call("volume_unmount", own_s=_WRITE_S, serial=serial)

    async def freeze_volume(self, serial: str, *, limit_ms: int) -> bool:
        """Have everything written to a volume, and hold back writes until `thaw_volume`, or for so long at most.

        Returns:
            Whether the guest had it mounted for writing.
        """
        reply = await self._call("volume_freeze", own_s=_WRITE_S, serial=serial, limit_ms=limit_ms)
        return reply.value.get("frozen") is True

    async def thaw_volume(self, serial: str) -> None:
        """Let writes to a volume go on."""
        await self._call("volume_thaw", serial=serial)

    async def pause_programs(self) -> None:
        """Stop the sandbox's programs where they are; calls that start one wait until `resume_programs`."""
        await self._call("pause", own_s=_PAUSE_S)

    async def resume_programs(self) -> None:
        """Let the sandbox's programs go on; nothing changes if they run."""
        await self._call("resume")
