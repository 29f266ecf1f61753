"""Built parts on disk: one directory each, named by the digest of its manifest, which holds the digests of its files.

    images/kernel-1f2e3d4c5b6a/   vmlinuz  vmlinux  initramfs  manifest.json  checked.json

A named part never changes; another build is another directory beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmm.errors import Damaged, Unavailable

from ..disk.copy import sync_directory
from ..disk.os_errors import EXHAUSTED, translate_os_error
from ..repeated_warnings import RepeatedWarnings

_MANIFEST = "manifest.json"
_FORMAT = 1
_CHECKED = "checked.json"
_DIGITS = 12
_BLOCK = 512


class FileRecord(BaseModel):
    """A file as it was built: its digest (SHA-256, hex) and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str
    size: int


class Manifest(BaseModel):
    """The files of a part, and its inputs. Fields of later releases are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = Field(default=_FORMAT, le=_FORMAT)
    part: str
    inputs: dict[str, str]
    facts: dict[str, str]
    files: dict[str, FileRecord]
    built_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One built part.

    Attributes:
        directory: The directory of its files.
        manifest: Describes them.
    """

    directory: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The part's name."""
        return self.manifest.part

    @property
    def content(self) -> str:
        """The digest of the contents alone: the same for two builds with the same result."""
        lines = (f"{name} {record.sha256}\n" for name, record in sorted(self.manifest.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def file(self, name: str) -> Path:
        """Return the path of one of its files."""
        return self.directory / name

    def occupied(self) -> int:
        """Return its bytes on the host's disk, without holes."""
        return sum((self.directory / name).stat().st_blocks * _BLOCK for name in self.manifest.files)


class Store:
    """The parts below one directory. Everything here blocks: call it in a thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # Every create looks up an image: files that look unchanged are not read again.
        self._manifests: dict[Path, Manifest] = {}
        self._checked: dict[Path, dict[str, list[int]]] = {}
        self._warnings = RepeatedWarnings()

    def parts(self, name: str = "*") -> list[Part]:
        """List all readable parts of a name, the newest first."""
        found = (self._read(path) for path in self._root.glob(f"{name}-{'[0-9a-f]' * _DIGITS}"))
        return sorted((part for part in found if part), key=lambda part: part.manifest.built_ms, reverse=True)

    def find(self, name: str, inputs: Mapping[str, str]) -> Part | None:
        """Find the newest part built from exactly these inputs, without checking its files."""
        return next((part for part in self.parts(name) if part.manifest.inputs == dict(inputs)), None)

    def publish(self, name: str, made: Path, inputs: Mapping[str, str], facts: Mapping[str, str]) -> Part:
        """Publish a directory of new files: add a manifest, and give it its final name, by which it is found."""
        files: dict[str, FileRecord] = {}
        for path in sorted(made.iterdir()):
            path.chmod(0o444)
            files[path.name] = FileRecord(sha256=_digest(path, sync=True), size=path.stat().st_size)
        manifest = Manifest(
            part=name, inputs=dict(inputs), facts=dict(facts), files=files, built_ms=time.time_ns() // 1_000_000
        )
        text = manifest.model_dump_json(indent=1).encode()
        directory = self._root / f"{name}-{hashlib.sha256(text).hexdigest()[:_DIGITS]}"
        _write(made / _MANIFEST, text)
        part = Part(directory=made, manifest=manifest)
        self._stamp(part)
        made.chmod(0o755)
        sync_directory(made)
        made.rename(directory)
        sync_directory(self._root)
        return Part(directory=directory, manifest=manifest)

    def check(self, part: Part) -> None:
        """Check that each file has the size, time of change and inode that it had when its digest was last checked.

        This takes microseconds and finds replaced, truncated or written files, but not a failing disk or a reset clock:
        that needs `check_all`, which runs automatically for a part whose files look changed.

        Raises:
            Unavailable: A file is missing or has changed.
        """
        seen = self._look(part)
        if self._checked.get(part.directory) == seen:
            return
        try:
            known: object = json.loads((part.directory / _CHECKED).read_text())
        except (OSError, ValueError):
            known = None
        if known == seen:
            self._checked[part.directory] = seen
        else:
            self.check_all(part)

    def check_all(self, part: Part) -> None:
        """Read every file and compare its SHA-256 with the manifest: about a second for the largest.

        Raises:
            Unavailable: A file is missing or has changed.
        """
        self._look(part)
        for name, record in part.manifest.files.items():
            if _digest(part.file(name)) != record.sha256:
                raise _damaged(part, f"{name} has changed since it was built")
        try:
            self._stamp(part)
        except PermissionError:
            return  # another user's images: intact, but read again the next time

    def _stamp(self, part: Part) -> None:
        _write(part.directory / _CHECKED, json.dumps(self._look(part)).encode())

    def _look(self, part: Part) -> dict[str, list[int]]:
        seen: dict[str, list[int]] = {}
        for name, record in part.manifest.files.items():
            try:
                status = part.file(name).stat()
            except OSError as error:
                raise _damaged(part, f"{name} cannot be read: {error.strerror}") from error
            if status.st_size != record.size:
                raise _damaged(part, f"{name} must have {record.size} bytes, got {status.st_size}")
            seen[name] = [status.st_size, status.st_mtime_ns, status.st_ino]
        return seen

    def _read(self, directory: Path) -> Part | None:
        if known := self._manifests.get(directory):
            return Part(directory=directory, manifest=known)
        try:
            manifest = _manifest(directory)
        except Damaged as error:
            # It counts as not built, so that it is built again, and other parts are used in the meantime.
            self._warnings.raised(error, "image part ignored", part=directory.name)
            return None
        if manifest is None:
            return None
        self._manifests[directory] = manifest
        return Part(directory=directory, manifest=manifest)


def _manifest(directory: Path) -> Manifest | None:
    path = directory / _MANIFEST
    try:
        text = path.read_bytes()
        manifest = Manifest.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise translate_os_error(error, "an image's manifest", path) from error
        raise Damaged(f"{directory.name}/{_MANIFEST} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = ".".join(str(part) for part in first["loc"])
        raise Damaged(f"{directory.name}/{_MANIFEST} is damaged: {what}: {first['msg']}") from error
    # The directory's name is a digest of the manifest, so a changed manifest does not count.
    if directory.name != f"{manifest.part}-{hashlib.sha256(text).hexdigest()[:_DIGITS]}":
        raise Damaged(f"{directory.name}/{_MANIFEST} was changed: its digest must be that of the directory's name")
    return manifest


def _damaged(part: Part, what: str) -> Unavailable:
    return Unavailable(
        f"The image part {part.directory.name} is damaged: {what}",
        hint=f"Build it again: casemate image build --force{'' if part.name in _SHARED else ' ' + part.name}",
    )


_SHARED = ("kernel", "toolbox")


def _digest(path: Path, *, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
