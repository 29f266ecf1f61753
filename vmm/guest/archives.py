"""The link's calls that move whole trees as tar streams, out of the guest and into it."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from typing import Any

from vmm.agent import frames
from vmm.errors import LinkError

from . import checks
from .caller import Caller, DataStream, Stream, pack_request
from .connection import unpack
from .decoding import plain
from .uploading import Upload
from .values import ArchiveReport, FileInfo


class ArchiveCalls(Caller):
    """Pack and unpack directories in the guest.

    An archive holds files with their holes, directories, links of both kinds and FIFOs, with modes, owners and times.
    Sockets, devices and unreadable files are left out and reported; they do not end the call.
    """

    @asynccontextmanager
    async def pack(self, path: str) -> AsyncGenerator[Archive]:
        """Stream a directory as a tar archive of its content; the directory itself is `./` there.

        Raises:
            InvalidInput: The path is relative or invalid.
            GuestFileMissing: It does not exist.
            GuestFileRefused: It is not a directory.
        """
        async with self._stream("pack", path=checks.path(path)) as answer:
            frame = await answer.receive()
            if frame is None or frame[0] != frames.HEAD:
                raise LinkError("The guest's answer does not describe the directory")
            yield Archive(plain(FileInfo, unpack(frame[1])), answer)

    async def unpack(self, path: str, chunks: AsyncIterable[bytes], *, owners: bool = False) -> ArchiveReport:
        """Unpack a tar archive into a directory, which is created if it does not exist.

        A file is replaced completely or not at all. Nothing is written outside the directory, and no link is followed,
        whatever the archive contains. What was unpacked stays, even after an error.

        Args:
            path: The directory.
            chunks: The archive, not compressed; an error that they raise ends the call.
            owners: Whether to restore the owners, and setuid and setgid bits, from the archive.

        Raises:
            InvalidInput: The path is relative or invalid, or the data is not a complete archive.
            GuestFileRefused: It is not a directory.
            GuestDiskFull: The disk is full; the message says how much was unpacked.
        """
        request = pack_request("unpack", {"path": checks.path(path), "owners": owners}, with_body=True)
        async with self._vitality.watch("unpack", more_s=math.inf), self._pool.connection() as connection:
            upload = Upload(connection, "unpack", self._vitality.grace.living_s)
            return _report((await upload.run(request, chunks)).value)
        raise AssertionError  # unreachable: the block either returns or raises


class Archive(DataStream):
    """A tar stream as it arrives; an empty piece is a sign of life.

    Attributes:
        info: The packed directory.
    """

    def __init__(self, info: FileInfo, stream: Stream) -> None:
        super().__init__(stream)
        self.info = info

    @property
    def report(self) -> ArchiveReport:
        """Return what the archive contains and what was left out; only after all of it has arrived."""
        return _report(self._stream.result)


def _report(value: dict[str, Any]) -> ArchiveReport:
    try:
        listed = tuple((str(name), str(reason)) for name, reason in value["listed"])
        return ArchiveReport(
            files=int(value["files"]), size=int(value["size"]), skipped=int(value["skipped"]), listed=listed
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LinkError("The guest's answer does not say what its archive contains") from error
