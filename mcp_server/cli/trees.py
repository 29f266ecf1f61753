"""A place that files are copied from or to: this machine and a sandbox look the same to who copies."""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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


class Tree(ABC):
    """Where files are; paths are texts with slashes."""

    @abstractmethod
    def name(self, path: str) -> str:
        """What a path is called in messages."""

    @abstractmethod
    async def look(self, path: str) -> Entry | None:
        """What is there, links followed; None if there is nothing."""

    @abstractmethod
    async def entries(self, path: str) -> list[Entry]:
        """What is in a directory; links are links."""

    @abstractmethod
    def open(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A file's content, in pieces."""

    @abstractmethod
    async def write(self, path: str, content: AsyncIterable[bytes], mode: int) -> None:
        """Make or replace a file: all of it, or nothing."""

    @abstractmethod
    async def make_directory(self, path: str) -> None:
        """Make a directory; one that is there is fine."""


def kind_of(mode: int) -> Kind:
    """What st_mode says that something is."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"
