"""Snapshots: named checkpoints of sandboxes, each a directory that appears as a whole and never changes.

    snapshots/<id>/   snapshot.json  saved.json  ram  state  disk  parts/

The manifest in the directory is the only record of a snapshot, so that neither exists without the other. If a manifest
cannot be read, nobody owns the snapshot: it is logged and stays where it is. If it can be read but lacks something
other than the owner, the owner sees the snapshot as damaged and can delete it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

import anyio

from storage.shown import shown

from ..disk import digest
from ..disk.copy import sync_directory
from ..disk.digest import FileDigest
from ..disk.os_errors import translate_os_errors
from ..disk.record_file import FORMAT, RecordFile
from ..errors import Conflict, Damaged, NotFound, Unavailable
from ..hypervisor.process import orphans
from ..repeated_warnings import RepeatedWarnings
from .checkpoint import Checkpoint, write_private

_MANIFEST = "snapshot.json"
_FORMAT = 1
_HINT = "Use another one, and delete this one"
_DRAFT = ".draft-"
_FORK = ".fork-"
_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The manifest of a snapshot.

    Attributes:
        id: 24 hex digits that sort by creation.
        owner: Opaque id; nobody else can see that the snapshot exists.
        sandbox, sandbox_name: The sandbox that it was taken of, and the sandbox's name at that time.
        name: Need not be unique.
        parent: The snapshot that the sandbox had been created from or restored to; empty if none.
        image, cpu, mem, disk: The sandbox's; memory and disk in MiB.
        env: Default environment of the sandbox's commands; never shown.
        network: The sandbox's policy; empty for the operator's.
        machine_id: The guest's machine id.
        driver: Fingerprint of the hypervisor that can load it.
        size: Bytes on the host's disk.
        files: The digests of its files when they were written.
        damage: Why it cannot be used; empty if it can. Not part of the manifest.
    """

    id: str
    owner: str
    sandbox: str
    sandbox_name: str
    name: str
    parent: str
    image: str
    cpu: int
    mem: int
    disk: int
    driver: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    network: str = ""
    machine_id: str = field(default="", repr=False)
    size: int = 0
    created_ms: int = 0
    created_by: str = ""
    files: Mapping[str, FileDigest] = field(default_factory=dict[str, FileDigest], repr=False)
    damage: str = ""

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Read the snapshot in a directory; None if there is none. Blocks on the disk.

        Raises:
            Damaged: Its owner cannot be read.
        """
        written = RecordFile.read(directory / _MANIFEST, newest=_FORMAT, hint=_HINT)
        if written is None:
            return None
        owner = written.text("owner")
        try:
            return cls._from_manifest(directory.name, owner, written)
        except Damaged as error:
            name = written.fields.get("name")
            return cls._damaged(directory.name, owner, name if isinstance(name, str) else directory.name, error.message)

    @classmethod
    def _from_manifest(cls, snapshot_id: str, owner: str, written: RecordFile) -> Self:
        files = written.part("files")
        return cls(
            id=snapshot_id,
            owner=owner,
            sandbox=written.text("sandbox"),
            sandbox_name=written.text("sandbox_name"),
            name=written.text("name"),
            parent=written.text("parent"),
            image=written.text("image"),
            cpu=written.number("cpu"),
            mem=written.number("mem"),
            disk=written.number("disk"),
            driver=written.text("driver"),
            labels=written.texts("labels"),
            env=written.texts("env"),
            network=written.text("network", ""),
            machine_id=written.text("machine_id", ""),
            size=written.number("size", 0),
            created_ms=written.number("created_ms", 0),
            created_by=written.text("created_by", ""),
            files={name: digest.written(files.part(name)) for name in files.fields},
        )

    @classmethod
    def _damaged(cls, snapshot_id: str, owner: str, name: str, damage: str) -> Self:
        return cls(
            id=snapshot_id,
            owner=owner,
            sandbox="",
            sandbox_name="",
            name=name,
            parent="",
            image="",
            cpu=0,
            mem=0,
            disk=0,
            driver="",
            damage=damage,
        )

    def check(self) -> None:
        """Refuse a damaged snapshot.

        Raises:
            Damaged: It is damaged.
        """
        if self.damage:
            raise Damaged(f"Snapshot {self.id}: {self.damage}", hint=_HINT)


class Snapshots:
    """The snapshots below one directory.

    Args:
        root: Their directory; used by this object alone.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._warnings = RepeatedWarnings()

    async def sweep(self) -> int:
        """Remove what interrupted saves and forks left, and count it. Call before anything else.

        Logs what cannot be removed, and leaves it for the next start.

        Raises:
            HostExhausted: The directory cannot be made.
            Unavailable: Likewise.
        """
        with translate_os_errors("the directory of snapshots", self._root):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            left = [*self._root.glob(f"{_DRAFT}*"), *self._root.glob(f"{_FORK}*")]
            working = await anyio.to_thread.run_sync(orphans, self._root)
        for directory, processes in working.items():
            for process in processes:
                with self._warnings.about("helper of a save not ended", directory=str(directory)):
                    await process.kill()
        for directory in left:
            with self._warnings.about("remains of a save not removed", directory=str(directory)):
                await anyio.to_thread.run_sync(shutil.rmtree, directory)
        return len(left)

    async def draft(self, snapshot_id: str) -> Path:
        """Make an empty directory to save into, which does not count as a snapshot."""
        return await self._made(f"{_DRAFT}{snapshot_id}")

    async def fork_base(self, fork_id: str) -> Path:
        """Make an empty directory to save into, for as long as a fork takes."""
        return await self._made(f"{_FORK}{fork_id}")

    async def publish(self, snapshot: Snapshot, draft: Path) -> Snapshot:
        """Turn a draft into a snapshot: write its manifest, sync it to the disk and give it its name.

        Raises:
            HostExhausted: The host's disk is full.
            Unavailable: The host refuses it.
        """
        with translate_os_errors("a snapshot", self._root):
            return await anyio.to_thread.run_sync(self._publish, snapshot, draft)

    async def discard(self, draft: Path) -> None:
        """Remove a draft, or the base of a fork; a no-op if there is none."""
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(draft, ignore_errors=True))

    async def all(self) -> list[Snapshot]:
        """List everybody's snapshots, newest first, without those whose owner cannot be read."""
        with translate_os_errors("listing snapshots", self._root):
            return await anyio.to_thread.run_sync(self._all)

    async def owned(self, owner: str) -> list[Snapshot]:
        """List the owner's snapshots, newest first."""
        return [snapshot for snapshot in await self.all() if snapshot.owner == owner]

    async def find(self, owner: str, ref: str) -> Snapshot:
        """Find one snapshot, by id, by name, or by a beginning of its id that no other has.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: The name or beginning matches several; the message lists their ids.
        """
        owned = await self.owned(owner)
        for fitting in (
            [snapshot for snapshot in owned if snapshot.id == ref],
            [snapshot for snapshot in owned if snapshot.name == ref],
            [snapshot for snapshot in owned if ref and snapshot.id.startswith(ref)],
        ):
            if len(fitting) > 1:
                ids = ", ".join(snapshot.id for snapshot in fitting)
                raise Conflict(f"Several snapshots match {shown(ref)}: {ids}", hint="Use one of these ids")
            if fitting:
                return fitting[0]
        raise NotFound(f"There is no snapshot {shown(ref)}", hint="List the snapshots, or take one")

    async def checkpoint(self, snapshot: Snapshot) -> Checkpoint:
        """Check that the snapshot's files are what was saved, and return what machines are made from.

        Raises:
            Damaged: A file is missing or is not what was saved.
        """
        snapshot.check()
        with translate_os_errors("a snapshot", self._root / snapshot.id):
            return await anyio.to_thread.run_sync(self._checkpoint, snapshot)

    async def rename(self, snapshot: Snapshot, name: str) -> Snapshot:
        """Give a snapshot another name.

        Raises:
            HostExhausted: The host's disk is full; it keeps its old name.
            Unavailable: It is damaged, or the host refuses it.
        """
        snapshot.check()
        renamed = replace(snapshot, name=name)
        with translate_os_errors("renaming a snapshot", self._root):
            await anyio.to_thread.run_sync(_write, renamed, self._root / snapshot.id)
        return renamed

    async def remove(self, snapshot: Snapshot) -> None:
        """Remove a snapshot at once and completely; machines that map its memory go on.

        Raises:
            Unavailable: The host refuses it.
        """
        with translate_os_errors("removing a snapshot", self._root):
            await anyio.to_thread.run_sync(self._remove, snapshot.id)

    async def _made(self, name: str) -> Path:
        directory = self._root / name
        with translate_os_errors("a checkpoint", self._root):
            await anyio.Path(directory).mkdir(mode=0o700)
        return directory

    def _publish(self, snapshot: Snapshot, draft: Path) -> Snapshot:
        files = [path for path in sorted(draft.rglob("*")) if path.is_file() and path.parent.name != "parts"]
        whole = replace(
            snapshot,
            size=sum(path.stat().st_blocks * _BLOCK for path in files),
            files={str(path.relative_to(draft)): digest.digest(path) for path in files},
        )
        _write(whole, draft)
        target = self._root / snapshot.id
        draft.rename(target)
        sync_directory(self._root)
        return whole

    def _all(self) -> list[Snapshot]:
        try:
            names = [path for path in self._root.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return []
        found = [self._read(path) for path in sorted(names, reverse=True)]
        return [snapshot for snapshot in found if snapshot is not None]

    def _read(self, directory: Path) -> Snapshot | None:
        try:
            snapshot = Snapshot.read(directory)
        except Damaged as error:
            self._warnings.raised(error, "snapshot cannot be read", path=str(directory))
            return None
        self._warnings.settled("snapshot cannot be read", path=str(directory))
        return snapshot

    def _checkpoint(self, snapshot: Snapshot) -> Checkpoint:
        directory = self._root / snapshot.id
        try:
            for name, known in snapshot.files.items():
                digest.check(directory / name, known)
        except Unavailable as error:
            raise Damaged(f"Snapshot {snapshot.id} is damaged: {error.message}", hint=_HINT) from error
        checkpoint = Checkpoint.load(directory)
        if checkpoint is None:
            raise NotFound(f"There is no longer a snapshot {snapshot.id}", hint="List the snapshots, or take one")
        return checkpoint

    def _remove(self, snapshot_id: str) -> None:
        # The rename hides it in one step: an interrupted removal leaves a draft, which the next start removes.
        gone = self._root / f"{_DRAFT}{snapshot_id}.gone"
        try:
            (self._root / snapshot_id).rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone)


def _write(snapshot: Snapshot, directory: Path) -> None:
    values = {FORMAT: _FORMAT, **asdict(snapshot)}
    del values["damage"]
    write_private(directory / _MANIFEST, json.dumps(values))
    sync_directory(directory)
