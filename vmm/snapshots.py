"""Snapshots: named moments of sandboxes, each a directory of its own that appears as a whole and never changes.

    snapshots/<id>/   snapshot.json  saved.json  ram  state  disk  parts/

The manifest in the directory is the only record of a snapshot: there is none without its files, no files without it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import anyio

from . import digests
from .digests import FileDigest
from .disks import sync_directory
from .errors import Conflict, NotFound, Unavailable
from .hypervisor.process import strays
from .saved import Saved, write_private

_MANIFEST = "snapshot.json"
_DRAFT = ".draft-"
_FORK = ".fork-"
_BLOCK = 512
_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A sandbox's moment that was kept.

    Attributes:
        id: 24 hex digits that sort by creation.
        owner: Opaque id; nobody else ever learns that the snapshot exists.
        sandbox, sandbox_name: Which sandbox it was taken of, and that one's name then.
        name: Need not be unique.
        parent: The snapshot that the sandbox had been made from or restored to; empty if none.
        image, cpu, mem, disk: The sandbox's; memory and disk in MiB.
        env: Default environment of the sandbox's commands; never shown.
        machine_id: What the guest called itself.
        driver: Fingerprint of the hypervisor that can load it.
        size: Bytes on the host's disk.
        files: What its files were when they were written.
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
    machine_id: str = field(default="", repr=False)
    size: int = 0
    created_ms: int = 0
    created_by: str = ""
    files: Mapping[str, FileDigest] = field(default_factory=dict[str, FileDigest], repr=False)

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The snapshot in a directory; None if there is none. Blocks for as long as a disk does."""
        try:
            values: dict[str, Any] = json.loads((directory / _MANIFEST).read_text())
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None
        return cls(**values)


class Snapshots:
    """The snapshots below one directory.

    Args:
        root: Their directory; it belongs to this object alone.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def sweep(self) -> int:
        """End and remove what broken-off saves and forks left, and say how many. Call before anything else."""
        for processes in (await anyio.to_thread.run_sync(strays, self._root)).values():
            for process in processes:
                await process.kill()
        return await anyio.to_thread.run_sync(self._sweep)

    async def draft(self, snapshot_id: str) -> Path:
        """An empty directory to save into, which nobody takes for a snapshot."""
        return await self._made(f"{_DRAFT}{snapshot_id}")

    async def fork_base(self, fork_id: str) -> Path:
        """An empty directory to save into for as long as a fork takes."""
        return await self._made(f"{_FORK}{fork_id}")

    async def publish(self, snapshot: Snapshot, draft: Path) -> Snapshot:
        """Give what was saved in a draft its manifest and its name; from now on it is a snapshot, and on the disk."""
        return await anyio.to_thread.run_sync(self._publish, snapshot, draft)

    async def discard(self, draft: Path) -> None:
        """Remove a draft, or the base of a fork; a no-op if there is none."""
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(draft, ignore_errors=True))

    async def all(self) -> list[Snapshot]:
        """Everybody's snapshots, newest first."""
        return await anyio.to_thread.run_sync(self._all)

    async def owned(self, owner: str) -> list[Snapshot]:
        """The owner's snapshots, newest first."""
        return [snapshot for snapshot in await self.all() if snapshot.owner == owner]

    async def find(self, owner: str, ref: str) -> Snapshot:
        """One snapshot, by id, by name, or by the beginning of its id if that fits no other.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: The name or the beginning fits several; the message lists their ids.
        """
        owned = await self.owned(owner)
        for fitting in (
            [snapshot for snapshot in owned if snapshot.id == ref],
            [snapshot for snapshot in owned if snapshot.name == ref],
            [snapshot for snapshot in owned if ref and snapshot.id.startswith(ref)],
        ):
            if len(fitting) > 1:
                ids = ", ".join(snapshot.id for snapshot in fitting)
                raise Conflict(f"snapshot: {_shown(ref)} fits several: {ids}", hint="Use one of these ids")
            if fitting:
                return fitting[0]
        raise NotFound(f"There is no snapshot {_shown(ref)}", hint="List the snapshots, or take one")

    async def saved(self, snapshot: Snapshot) -> Saved:
        """What machines are made of: the snapshot's files, seen to be what was saved.

        Raises:
            Unavailable: A file is missing or is not what was saved.
        """
        return await anyio.to_thread.run_sync(self._saved, snapshot)

    async def rename(self, snapshot: Snapshot, name: str) -> Snapshot:
        """Give a snapshot another name."""
        renamed = replace(snapshot, name=name)
        await anyio.to_thread.run_sync(_write, renamed, self._root / snapshot.id)
        return renamed

    async def remove(self, snapshot: Snapshot) -> None:
        """Remove a snapshot at once, as a whole; what maps its memory goes on."""
        await anyio.to_thread.run_sync(self._remove, snapshot.id)

    async def _made(self, name: str) -> Path:
        directory = self._root / name
        await anyio.Path(directory).mkdir(mode=0o700)
        return directory

    def _sweep(self) -> int:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        left = [*self._root.glob(f"{_DRAFT}*"), *self._root.glob(f"{_FORK}*")]
        for directory in left:
            shutil.rmtree(directory)
        return len(left)

    def _publish(self, snapshot: Snapshot, draft: Path) -> Snapshot:
        files = [path for path in sorted(draft.rglob("*")) if path.is_file() and path.parent.name != "parts"]
        whole = replace(
            snapshot,
            size=sum(path.stat().st_blocks * _BLOCK for path in files),
            files={str(path.relative_to(draft)): digests.digest(path) for path in files},
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
        found = [Snapshot.read(path) for path in sorted(names, reverse=True)]
        return [snapshot for snapshot in found if snapshot is not None]

    def _saved(self, snapshot: Snapshot) -> Saved:
        directory = self._root / snapshot.id
        try:
            for name, known in snapshot.files.items():
                digests.check(directory / name, known)
        except Unavailable as error:
            raise Unavailable(
                f"Snapshot {snapshot.id} is damaged: {error.message}", hint="Use another one, and delete this one"
            ) from error
        saved = Saved.load(directory)
        if saved is None:
            raise NotFound(f"There is no snapshot {snapshot.id} any more", hint="List the snapshots, or take one")
        return saved

    def _remove(self, snapshot_id: str) -> None:
        # Out of sight in one step: a removal that is broken off leaves a draft, which the next start sweeps.
        gone = self._root / f"{_DRAFT}{snapshot_id}.gone"
        try:
            (self._root / snapshot_id).rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone)


def _write(snapshot: Snapshot, directory: Path) -> None:
    write_private(directory / _MANIFEST, json.dumps(asdict(snapshot)))
    sync_directory(directory)


def _shown(ref: str) -> str:
    return repr(ref if len(ref) <= _SHOWN else f"{ref[:_SHOWN]}…")
