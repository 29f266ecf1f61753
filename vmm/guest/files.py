"""The link's calls about files. Paths are absolute paths in the guest; no link leads out of the guest."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from typing import Any, Self

from storage.shown import shown
from vmm.agent import frames
from vmm.errors import InvalidInput, LinkError

from . import checks
from .caller import Caller, DataStream, Stream
from .connection import unpack
from .decoding import plain
from .values import FileInfo, FileSlice, Listing, Match, SearchResult

_TREE_SECONDS = 600.0
"""Deadline of calls that may visit a whole tree, while the guest is alive."""

MAX_ENTRIES = 1_000_000
"""Entries of a directory that are streamed, at most."""
_MAX_LISTING = 512 * 1024 * 1024
"""Bytes of a streamed listing in the agent's form, at most."""


class FileCalls(Caller):
    """List, read, write, make, delete, move, copy and find files in the guest.

    All of them raise InvalidInput for a relative or invalid path, GuestFileMissing if nothing is there,
    GuestFileRefused if the file does not allow it, and GuestDiskFull.
    """

    async def list_files(self, path: str, *, limit: int = 1000) -> Listing:
        """List a directory's entries in name order, at most `limit`."""
        reply = await self._call("list", path=checks.path(path), limit=checks.count(limit, "limit", minimum=1))
        entries = tuple(plain(FileInfo, value) for value in reply.value["entries"])
        return Listing(entries=entries, truncated=bool(reply.value["truncated"]))

    @asynccontextmanager
    async def open_list(self, path: str, *, limit: int = MAX_ENTRIES) -> AsyncGenerator[Entries]:
        """Stream a directory's entries; up to 100,000 are in name order, more in the directory's own."""
        limit = min(checks.count(limit, "limit", minimum=1), MAX_ENTRIES)
        async with self._stream("list", path=checks.path(path), limit=limit, stream=True) as answer:
            head = await answer.receive()
            if head is not None and head[0] != frames.HEAD:
                raise LinkError("The guest's answer does not describe the directory")
            yield Entries(answer, limit)

    async def stat(self, path: str) -> FileInfo:
        """Describe one entry; does not follow a link."""
        return plain(FileInfo, (await self._call("stat", path=checks.path(path))).value)

    async def read_file(self, path: str, *, offset: int = 0, length: int | None = None) -> FileSlice:
        """Read a range of a file, to its end if there is no length; at most 64 MiB at once.

        Raises:
            InvalidInput: A negative offset or length, or more than 64 MiB.
        """
        most = checks.MAX_WHOLE_READ
        if length is not None and length > most:
            raise InvalidInput(f"length must be at most {most} bytes, got {shown(length)}", hint="Read it in ranges")
        data = bytearray()
        async with self.open_read(path, offset=offset, length=length) as (info, pieces):
            async for piece in pieces:
                data += piece
                if len(data) > most:
                    raise InvalidInput(
                        f"length must be set for {shown(path)}, which has more than {most} bytes",
                        hint="Read it in ranges of offset and length",
                    )
        return FileSlice(offset=offset, data=bytes(data), more=pieces.more, stated=info.size)

    @asynccontextmanager
    async def open_read(
        self, path: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[tuple[FileInfo, Pieces]]:
        """Stream a range of a file in pieces of at most 256 KiB, to its real end if there is no length."""
        stream = self._stream(
            "read",
            path=checks.path(path),
            offset=checks.count(offset, "offset"),
            length=None if length is None else checks.count(length, "length"),
        )
        async with stream as answer:
            frame = await answer.receive()
            if frame is None or frame[0] != frames.HEAD:
                raise LinkError("The guest's answer does not describe the file")
            yield plain(FileInfo, unpack(frame[1])), Pieces(answer)

    async def write_file(
        self, path: str, data: bytes, *, append: bool = False, mode: int | None = None, make_parents: bool = True
    ) -> FileInfo:
        """Write a whole file, or append to it.

        Readers see the old content or the new, never a mixture, and a failed write leaves the old. An existing file
        keeps its owner, and its mode unless one is given; a symbolic link is followed. Appending is not atomic.
        """
        if mode is not None and not 0 <= mode <= 0o7777:
            raise InvalidInput(f"mode must be 0 to 7777 (octal), got {mode:o}")
        reply = await self._call(
            "write",
            body=data,
            more_s=_TREE_SECONDS,
            path=checks.path(path),
            append=append,
            mode=mode,
            make_parents=make_parents,
        )
        return plain(FileInfo, reply.value)

    async def write_stream(
        self, path: str, chunks: AsyncIterable[bytes], *, mode: int | None = None, make_parents: bool = True
    ) -> FileInfo:
        """Write a whole file from a stream, as `write_file` does; an error of `chunks` leaves the old content."""
        if mode is not None and not 0 <= mode <= 0o7777:
            raise InvalidInput(f"mode must be 0 to 7777 (octal), got {mode:o}")
        reply = await self._upload("write", chunks, path=checks.path(path), mode=mode, make_parents=make_parents)
        return plain(FileInfo, reply.value)

    async def make_directory(self, path: str, *, parents: bool = True) -> FileInfo:
        """Make a directory; with `parents` also its parents, and an existing one is no error."""
        return plain(FileInfo, (await self._call("make_directory", path=checks.path(path), parents=parents)).value)

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file, a link or an empty directory; with `recursive` a directory with everything in it."""
        await self._call("delete", more_s=_TREE_SECONDS, path=checks.path(path), recursive=recursive)

    async def move(self, source: str, target: str, *, overwrite: bool = True) -> FileInfo:
        """Rename a file or directory; `target` is its new full name, whose directory must exist."""
        reply = await self._call(
            "move",
            more_s=_TREE_SECONDS,
            source=checks.path(source, "source"),
            target=checks.path(target, "target"),
            overwrite=overwrite,
        )
        return plain(FileInfo, reply.value)

    async def copy(self, source: str, target: str) -> FileInfo:
        """Copy a file, a link or a tree with modes, owners and times; `target` is the copy's full name."""
        reply = await self._call(
            "copy",
            more_s=_TREE_SECONDS,
            source=checks.path(source, "source"),
            target=checks.path(target, "target"),
        )
        return plain(FileInfo, reply.value)

    async def search(
        self, path: str, *, name: str = "", content: str = "", limit: int = 100, timeout_ms: int = 10_000
    ) -> SearchResult:
        """Find entries below a directory.

        Args:
            path: Where to begin; /proc, /sys and /dev are left out unless the search begins there.
            name: A glob for the last part of the path.
            content: Text that the file contains; binary files never match.
            limit: Maximum number of hits.
            timeout_ms: How long to search.

        Raises:
            InvalidInput: Neither name nor content.
        """
        if not (name or content):
            raise InvalidInput(
                "search must have a name or content, got neither", hint="Give a glob for the name or a text"
            )
        reply = await self._call(
            "search",
            own_s=checks.count(timeout_ms, "timeout_ms") / 1000,
            path=checks.path(path),
            name=checks.text(name, "name"),
            content=checks.text(content, "content"),
            limit=checks.count(limit, "limit", minimum=1),
            timeout_ms=timeout_ms,
        )
        matches = tuple(plain(Match, value) for value in reply.value["matches"])
        return SearchResult(matches=matches, truncated=bool(reply.value["truncated"]))


class Pieces(DataStream):
    """A file's bytes as they arrive."""

    @property
    def more(self) -> bool:
        """Tell whether the file continues after the range; only after all of it has arrived."""
        return bool(self._stream.result.get("more"))


class Entries:
    """A directory's entries, as pages of them arrive.

    Attributes:
        truncated: Whether there are more than were sent; only after all pages have arrived.
    """

    def __init__(self, stream: Stream, limit: int) -> None:
        self.truncated = False
        self._stream = stream
        self._limit = limit
        self._bytes = 0
        # An agent of an earlier release answers at once, with fewer entries.
        self._at_once: object = stream.result.get("entries") if stream.finished else None

    def __aiter__(self) -> Self:
        """Iterate over the pages that have not arrived yet."""
        return self

    async def __anext__(self) -> tuple[FileInfo, ...]:
        """Receive the next page.

        Raises:
            CasemateError: The guest refused.
            LinkError: The connection broke, or a page is not valid.
        """
        values = await self._page()
        if len(values) > self._limit:
            values, self.truncated = values[: self._limit], True
        if not values:
            raise StopAsyncIteration
        self._limit -= len(values)
        return tuple(plain(FileInfo, value) for value in values)

    async def _page(self) -> list[dict[str, Any]]:
        if self.truncated:
            raise StopAsyncIteration
        if self._at_once:
            values, self._at_once = self._at_once, None
            return _entries(values)
        frame = await self._stream.receive()
        if frame is None:
            self.truncated = bool(self._stream.result.get("truncated"))
            raise StopAsyncIteration
        self._bytes += len(frame[1])
        if self._bytes > _MAX_LISTING:
            self.truncated = True
            raise StopAsyncIteration
        if frame[0] != frames.DATA:
            raise LinkError(f"The guest sent a frame of kind {frame[0]} instead of data")
        try:
            values = json.loads(frame[1])
        except (ValueError, RecursionError) as error:
            raise LinkError("The guest sent a page that is not JSON") from error
        return _entries(values)


def _entries(values: object) -> list[dict[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):  # pyright: ignore[reportUnknownVariableType]
        raise LinkError("The guest sent a page that is not a list of entries")
    return values  # pyright: ignore[reportUnknownVariableType]
