"""A place that files are copied from or to: this machine and a sandbox look the same to who copies."""

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
    """Something at a path.

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
    """What was unpacked.

    Attributes:
        files: All but directories.
        size: Bytes of content.
        skipped: How many were left out, at either end.
        listed: Path and reason of these, if they are not too many.
    """

    files: int
    size: int
    skipped: int
    listed: list[tuple[str, str]]


class Tree(ABC):
    """Where files are; paths are texts with slashes.

    Attributes:
        sandbox: Whether it is a sandbox: between two of them owners are kept.
    """

    sandbox: ClassVar[bool]

    @abstractmethod
    def name(self, path: str) -> str:
        """What a path is called in messages."""

    @abstractmethod
    async def look(self, path: str) -> Entry | None:
        """What is there, links followed; None if there is nothing."""

    @abstractmethod
    def open(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A file's content, in pieces."""

    @abstractmethod
    async def write(self, path: str, content: AsyncIterable[bytes], mode: int) -> None:
        """Make or replace a file: all of it, or nothing."""

    @abstractmethod
    async def estimate_size(self, path: str) -> int:
        """About how many bytes a directory holds; 0 where that takes longer to learn than it is worth."""

    @abstractmethod
    def pack(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A directory as a tar stream, which tells itself what was left out."""

    @abstractmethod
    async def unpack(self, path: str, content: AsyncIterable[bytes], *, owners: bool) -> Report:
        """Unpack a tar stream into a directory, which is made if it is not there.

        Args:
            path: The directory.
            content: The stream.
            owners: Whether everything keeps its owners, where this place has them.
        """


def kind_of(mode: int) -> Kind:
    """What st_mode says that something is."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"
