"""The link's calls about archives: trees as tar streams, out of the guest and into it, and archives inside of it."""

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
from .values import ArchiveForm, ArchiveReport, FileInfo, MadeArchive


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

    async def compress(self, path: str, form: ArchiveForm) -> MadeArchive:
        """Make an archive of a file or directory inside of the guest, named `<path>.<form>`.

        It has one top entry, named like the path. It appears once it is complete, and replaces a file of its name.
        Cancelling the call leaves nothing of it.

        Raises:
            InvalidInput: The path is relative or invalid, or does not end in a name.
            GuestFileMissing: There is nothing.
            GuestFileRefused: It is neither a file nor a directory, or there is a directory at the archive's name.
            GuestDiskFull: The disk is full.
        """
        async with self._stream("compress", path=checks.path(path), format=form) as answer:
            await _finished(answer)
            return _made(answer.result)

    async def extract(self, archive: str, target: str) -> ArchiveReport:
        """Unpack an archive inside of the guest into a directory, which is created if it does not exist.

        The suffix of its name says its format, see ARCHIVE_SUFFIXES. Nothing gets outside of the directory: members
        with `..`, links that point outside, devices and setuid bits are left out and reported. An error, or
        cancelling the call, leaves the directory as it was.

        Raises:
            InvalidInput: A path is relative or invalid, or the archive's name has no known suffix.
            GuestFileMissing: There is no archive.
            GuestFileRefused: It is damaged or exceeds a limit, or the target is not a directory.
            GuestDiskFull: The disk is full.
        """
        archive, target = checks.path(archive, "archive"), checks.path(target, "target")
        async with self._stream("extract", archive=archive, target=target) as answer:
            await _finished(answer)
            return _report(answer.result)


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


async def _finished(answer: Stream) -> None:
    """Wait for the end of an answer whose pieces are only signs of life."""
    async for piece in DataStream(answer):
        if piece:
            raise LinkError("The guest sent data where none is expected")


def _made(value: dict[str, Any]) -> MadeArchive:
    try:
        return MadeArchive(
            archive=str(value["archive"]), archive_size=int(value["archive_size"]), report=_report(value)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LinkError("The guest's answer does not say which archive it made") from error


def _report(value: dict[str, Any]) -> ArchiveReport:
    try:
        listed = tuple((str(name), str(reason)) for name, reason in value["listed"])
        return ArchiveReport(
            files=int(value["files"]), size=int(value["size"]), skipped=int(value["skipped"]), listed=listed
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LinkError("The guest's answer does not say what its archive contains") from error
