"""The interface to a file system that files are copied from or to, whether local or in a sandbox."""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

Kind = Literal["file", "directory", "link", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, directory or link in a tree.

    Attributes:
        size: Bytes of a file.
        mode: Permission bits.
    """

    name: str
    kind: Kind
    size: int = 0
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of unpacking a tar stream.

    Attributes:
        files: Number of entries except directories.
        size: Bytes of content.
        skipped: Number of entries skipped while packing or unpacking.
        listed: Path and reason of skipped entries, up to a limit.
    """

    files: int
    size: int
    skipped: int
    listed: list[tuple[str, str]]


class Tree(ABC):
    """A file system; paths are strings with slashes.

    Attributes:
        sandbox: Whether it is in a sandbox; copies between sandboxes keep owners.
    """

    sandbox: ClassVar[bool]

    @abstractmethod
    def name(self, path: str) -> str:
        """Return the name of a path for messages."""

    @abstractmethod
    async def find(self, path: str) -> Entry | None:
        """Return the entry at a path, following links; None if there is none."""

    @abstractmethod
    def open(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a file and yield its content in pieces."""

    @abstractmethod
    async def write(self, path: str, content: AsyncIterable[bytes], mode: int) -> None:
        """Create or replace a file atomically."""

    @abstractmethod
    async def estimate_size(self, path: str) -> int:
        """Return the approximate size of a directory in bytes; 0 if finding out takes too long."""

    @abstractmethod
    def pack(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a directory as a tar stream, which also lists skipped entries."""

    @abstractmethod
    async def unpack(self, path: str, content: AsyncIterable[bytes], *, owners: bool) -> Report:
        """Unpack a tar stream into a directory, which is created if missing.

        Args:
            path: The directory.
            content: The stream.
            owners: Whether to keep owners, if this tree supports them.
        """


def kind_of(mode: int) -> Kind:
    """Return the kind of entry that st_mode describes."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"
