"""Volumes in machines: attaches and detaches them, and takes them out of a machine while it is saved.

The record says which sandbox has a volume, from before its machine gets the disk until after it has lost it. So no two
machines write to one file, wherever a server is killed; the next one gives running machines what their records say.

A saved machine has no volumes: what a volume holds changes while a snapshot stays as it is, and a kernel that remembers
an older state of a file system would damage it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
import structlog

from ..disk.os_errors import translate_os_errors
from ..errors import CasemateError, Conflict, NotFound, Unavailable
from ..hypervisor.volume_disk import VolumeDisk
from ..machines.machine import Machine
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from ..sandboxes.volume_mount import check_apart
from ..volumes.files import VolumeFiles
from ..volumes.store import VolumeStore
from ..volumes.volume import Attachment, Volume
from .keyed_lock import KeyedLock

log = structlog.get_logger(__name__)

_QUIET_MS = 120_000
_FLUSH_S = 10
_TRIES = 4
_AGAIN_S = 0.05
_BUSY = "Stop these programs, or have them leave the directory, then try again; or detach the volume"


class Attachments:
    """Which machines have which volumes.

    Args:
        store: The records of the volumes.
        files: Their files.
        sandboxes: The records of the sandboxes.
    """

    def __init__(self, store: VolumeStore, files: VolumeFiles, sandboxes: SandboxStore) -> None:
        self._store = store
        self._files = files
        self._sandboxes = sandboxes
        self.turns = KeyedLock()

    async def attach(self, sandbox: Sandbox, machine: Machine, volume: Volume, wanted: Attachment) -> Volume:
        """Attach a volume to a running sandbox, whose lock the caller holds. On failure, it is as it was.

        Raises:
            Conflict: It is attached in a way that excludes this, the path is taken, or the machine takes no volumes.
            InvalidInput: The sandbox has too many volumes, or needs the path itself.
            GuestError: The guest cannot mount it.
            LinkError: The guest does not answer.
            Unavailable: The hypervisor failed.
        """
        _check_takes(machine)
        async with self.turns.of(volume.id):
            names = await self.names(volume)
            others = await self._store.attached_to(sandbox.owner, sandbox.id)
            paths = {
                other.name: has.path
                for other in others
                if other.id != volume.id and (has := other.attachment(sandbox.id)) is not None
            }
            check_apart(paths, wanted.path)
            saved = await self._store.change(volume.id, lambda found: found.with_sandbox(sandbox.id, wanted, names))
            try:
                await self._connect(machine, saved, wanted)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._store.change(volume.id, lambda found: found.without_sandbox(sandbox.id))
                raise
            return saved
        raise AssertionError  # unreachable: the block either returns or raises

    async def detach(self, sandbox_id: str, machine: Machine | None, volume: Volume, *, force: bool) -> Volume:
        """Detach a volume from a sandbox, whose lock the caller holds.

        Args:
            sandbox_id: The sandbox.
            machine: Its machine, if it runs.
            volume: The volume.
            force: Whether to take it away even if programs use it or the guest does not answer.

        Raises:
            Conflict: It is not attached, or programs use it; the message names them.
            LinkError: The guest does not answer.
            Unavailable: The hypervisor failed.
        """
        async with self.turns.of(volume.id):
            found = await self._store.find(volume.id)
            if found is None or sandbox_id not in found.attached:
                raise Conflict(f"Volume {volume.name} is not attached to this sandbox")
            if machine is not None:
                await self._disconnect(machine, volume.serial, force=force)
            return await self._store.change(volume.id, lambda found: found.without_sandbox(sandbox_id))
        raise AssertionError  # unreachable: the block either returns or raises

    async def forget(self, owner: str, sandbox_id: str) -> None:
        """Record that a sandbox, of whose machine nothing is left, has no volumes."""
        for volume in await self._store.attached_to(owner, sandbox_id):
            with suppress(NotFound):
                await self._store.change(volume.id, lambda found: found.without_sandbox(sandbox_id))

    async def bring_back(self, sandbox_id: str, machine: Machine) -> str:
        """Give a machine the volumes that the records say its sandbox has, and no others; then its programs go on.

        Returns:
            What its owner should know: which volumes could not be mounted, and why. Empty if all are.
        """
        sandbox = await self._sandboxes.find(sandbox_id)
        volumes = [] if sandbox is None else await self._store.attached_to(sandbox.owner, sandbox_id)
        failed: list[str] = []
        for volume in volumes:
            has = volume.attachment(sandbox_id)
            assert has is not None
            try:
                await self._connect(machine, volume, has)
            except CasemateError as error:
                log.warning("volume not mounted", sandbox=sandbox_id, volume=volume.id, reason=error.message)
                failed.append(f"volume {volume.name} is not mounted at {has.path}: {error.message}")
        if machine.hardware.volumes:
            try:
                for serial in await machine.driver.plugged(machine.running) - {volume.serial for volume in volumes}:
                    await self._disconnect(machine, serial, force=True)
            finally:
                await resume_programs(machine)
        return "; ".join(failed)

    async def put_away(self, machine: Machine, *, force: bool = False) -> bool:
        """Take all volumes out of a machine, and tell whether there were any. `bring_back` follows, after failures too.

        Its programs stand still until then, so that none sees a directory without its volume.

        Raises:
            Conflict: Programs use one; the message names them.
            LinkError: The guest does not answer.
            Unavailable: The hypervisor failed.
        """
        if not machine.hardware.volumes:
            return False
        serials = await machine.driver.plugged(machine.running)
        tries = 1 if force else _TRIES
        while serials:
            tries -= 1
            try:
                if not force:
                    await machine.link.pause_programs()
                for serial in sorted(serials):
                    await self._disconnect(machine, serial, force=force)
            except Conflict:
                if tries == 0:
                    raise
            else:
                return True
            # A program that opens files for a moment only is done with this one soon.
            await resume_programs(machine)
            await anyio.sleep(_AGAIN_S)
        return False

    async def flush(self, machine: Machine) -> None:
        """Have a guest write what it still has to write to volumes, within ten seconds, because its machine is ended.

        They may be unmounted afterwards. A guest that does not answer loses what it has not written.
        """
        if not machine.hardware.volumes or machine.link.silent_s:
            return
        with anyio.move_on_after(_FLUSH_S), suppress(CasemateError):
            for serial in await machine.driver.plugged(machine.running):
                with suppress(Conflict):  # it is in use, and was written all the same
                    await machine.link.unmount_volume(serial)

    @asynccontextmanager
    async def apart(self, sandbox_id: str, machine: Machine) -> AsyncGenerator[None]:
        """Take a machine's volumes out of it for the length of a block.

        Raises:
            Conflict: Programs use one; the message names them.
        """
        were = True
        try:
            were = await self.put_away(machine)
            yield
        finally:
            if were:
                with anyio.CancelScope(shield=True):
                    await self.bring_back(sandbox_id, machine)

    @asynccontextmanager
    async def quiet(self, machine: Machine | None, volume: Volume) -> AsyncGenerator[None]:
        """Have nothing written to a volume for the length of a block, of at most two minutes.

        Raises:
            Unavailable: It took longer, so that the guest wrote again.
            LinkError: The guest does not answer.
        """
        if machine is None:
            yield
            return
        begun = time.monotonic()
        frozen = await machine.link.freeze_volume(volume.serial, limit_ms=_QUIET_MS)
        try:
            yield
        finally:
            if frozen:
                with anyio.CancelScope(shield=True):
                    await machine.link.thaw_volume(volume.serial)
        if frozen and (time.monotonic() - begun) * 1000 >= _QUIET_MS:
            raise Unavailable(f"Copying volume {volume.name} takes too long while it is in use", hint="Detach it first")

    async def names(self, volume: Volume) -> dict[str, str]:
        """Return the names of the sandboxes that have a volume, by id."""
        names: dict[str, str] = {}
        for sandbox_id in volume.attached:
            sandbox = await self._sandboxes.find(sandbox_id)
            if sandbox is not None and sandbox.state is not State.DELETED:
                names[sandbox_id] = sandbox.name
        return names

    async def _connect(self, machine: Machine, volume: Volume, wanted: Attachment) -> None:
        _check_takes(machine)
        path = self._files.path(volume.id)
        try:
            if volume.serial not in await machine.driver.plugged(machine.running):
                disk = VolumeDisk(serial=volume.serial, path=path, read_only=wanted.read_only)
                with translate_os_errors(f"volume {volume.name}", path):
                    await machine.driver.plug(machine.running, disk)
            await machine.link.mount_volume(volume.serial, wanted.path, read_only=wanted.read_only)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(CasemateError):
                await self._disconnect(machine, volume.serial, force=True)
            raise

    async def _disconnect(self, machine: Machine, serial: str, *, force: bool) -> None:
        try:
            await machine.link.unmount_volume(serial)
        except Conflict as error:
            if not force:
                raise Conflict(f"A volume cannot be unmounted: {error.message}", hint=_BUSY) from error
        except CasemateError:
            if not force:
                raise
        await machine.driver.unplug(machine.running, serial)


async def resume_programs(machine: Machine) -> None:
    """Let programs go on that stood still while their machine was saved. A guest that does not answer is told later."""
    if machine.hardware.volumes:
        try:
            await machine.link.resume_programs()
        except CasemateError as error:
            log.warning("programs not resumed", machine=machine.directory.name, reason=error.message)


def _check_takes(machine: Machine) -> None:
    if not machine.hardware.volumes:
        raise Conflict(
            "An earlier release made this sandbox or its snapshot, and its machine takes no volumes",
            hint="Create a new sandbox",
        )
