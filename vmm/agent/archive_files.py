"""The host's calls that make an archive of a file or directory next to it, and unpack an archive into a directory.

Both happen inside of the sandbox, in pieces. They end when the host no longer waits, and then leave nothing.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import stat
import time
from collections.abc import Callable, Generator, Iterator

from .archive_limits import MAX_AT_ONCE, Budget, LimitError
from .arguments import Arguments
from .channel import Channel
from .compression import CompressionError, Compressor, bunzip2, bzip2, gunzip, gzip
from .entries import open_regular, status_of, temporary, text, write_all
from .packing import Form, Packer
from .pulse import Pulse
from .refusals import REFUSED, RefusalError, from_os_error, invalid, shown
from .staging import Staging
from .tally import Tally
from .tar import TarError
from .tar_packing import TarForm
from .unpacking import Unpacker
from .zip_headers import ZipError
from .zip_packing import ZipForm
from .zip_reading import ZipSource

_COMPRESSORS: dict[str, Callable[[], Compressor] | None] = {
    "tar": None,
    "tar.gz": gzip,
    "tar.bz2": bzip2,
    "zip": None,
}
_SUFFIXES = {
    b".tar": "tar",
    b".tar.gz": "tar.gz",
    b".tgz": "tar.gz",
    b".tar.bz2": "tar.bz2",
    b".tbz2": "tar.bz2",
    b".zip": "zip",
}
_DECODERS = {"tar.gz": gunzip, "tar.bz2": bunzip2}
_MAX_NAME = 255
_CHUNK = 128 * 1024
_SYNC_BYTES = 32 * 1024 * 1024
"""Bytes after which what was written is brought to the disk, so that doing so at the end takes no longer."""
_WAIT_S = 0.1


class ArchiveFiles:
    """Makes archives, and unpacks them; a few at a time, the others wait."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._running = 0

    def compress(self, channel: Channel, arguments: Arguments) -> None:
        """Pack a file or directory into `<path>.<format>`, which appears once it is complete and replaces a file."""
        path, form = arguments.path().rstrip(b"/"), arguments.text("format")
        if form not in _COMPRESSORS:
            raise invalid(f"format must be one of {', '.join(_COMPRESSORS)}, got {form[:40]!r}")
        name, archive = path.rpartition(b"/")[2], path + b"." + form.encode()
        if name in {b"", b".", b".."}:
            raise invalid(f"path must end in the name of a file or directory, got {shown(arguments.path())}")
        if len(archive.rpartition(b"/")[2]) > _MAX_NAME:
            raise invalid(f"path must leave room for .{form} in a name of {_MAX_NAME} bytes, got {shown(name)}")
        existing = status_of(archive)
        if existing is not None and stat.S_ISDIR(existing.st_mode):
            raise RefusalError(REFUSED, f"{shown(archive)}: is a directory, where the archive has to be")
        pulse = Pulse(channel)
        with self._turn(pulse):
            try:
                tally, size = _write(path, name, archive, form, pulse)
            except OSError as error:
                raise from_os_error(error, path) from error
        channel.send_result(tally.report() | {"archive": text(archive), "archive_size": size})

    def extract(self, channel: Channel, arguments: Arguments) -> None:
        """Unpack an archive, whose format its name says, into a directory: as a whole, or not at all if it fails.

        Members that must not or cannot be created are skipped and reported.
        """
        archive, target = arguments.path("archive"), arguments.path("target")
        lower = archive.lower()
        form = next((form for suffix, form in _SUFFIXES.items() if lower.endswith(suffix)), "")
        if not form:
            known = ", ".join(suffix.decode() for suffix in _SUFFIXES)
            raise invalid(f"archive must end in one of {known}, got {shown(archive)}")
        pulse = Pulse(channel)
        with self._turn(pulse):
            descriptor, status = open_regular(archive)
            try:
                tally = _unpack(descriptor, status.st_size, form, target, pulse)
            except (TarError, ZipError, CompressionError) as error:
                raise RefusalError(REFUSED, f"{shown(archive)}: {error}; nothing was unpacked") from error
            except LimitError as error:
                way = "to unpack it nevertheless, run tar or unzip in the sandbox"
                raise RefusalError(REFUSED, f"{shown(archive)}: {error}; nothing was unpacked; {way}") from error
            except OSError as error:
                refusal = from_os_error(error, target)
                raise RefusalError(refusal.code, f"{refusal.message}; nothing was unpacked") from error
            finally:
                os.close(descriptor)
        channel.send_result(tally.report())

    @contextlib.contextmanager
    def _turn(self, pulse: Pulse) -> Generator[None]:
        """Wait until fewer than MAX_AT_ONCE others are at work."""
        while not self._begin():
            pulse.check()
            time.sleep(_WAIT_S)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def _begin(self) -> bool:
        with self._lock:
            if self._running >= MAX_AT_ONCE:
                return False
            self._running += 1
            return True


def _write(path: bytes, name: bytes, archive: bytes, form: str, pulse: Pulse) -> tuple[Tally, int]:
    """Write an archive to a draft, and rename it; return what it holds, and its size in bytes."""
    with _draft(archive, pulse) as draft, _spool(archive) as spool:
        status = os.fstat(draft)

        def make(tally: Tally) -> Form:
            return ZipForm(tally, spool) if form == "zip" else TarForm(tally)

        packer = Packer(path, make, name=name, without=(status.st_dev, status.st_ino))
        new = _COMPRESSORS[form]
        compressor = None if new is None else new()
        unsynced = 0
        try:
            for piece in packer.pieces():
                pulse.check()
                data = piece if compressor is None else compressor.compress(piece)
                write_all(draft, data)
                unsynced += len(data)
                if unsynced > _SYNC_BYTES:
                    os.fdatasync(draft)
                    unsynced = 0
        finally:
            packer.close()
        if compressor is not None:
            write_all(draft, compressor.flush())
        os.fchmod(draft, 0o644)
        return packer.tally, os.fstat(draft).st_size


@contextlib.contextmanager
def _draft(path: bytes, pulse: Pulse) -> Generator[int]:
    """Yield a descriptor of a file that gets the name `path` once the block has filled it."""
    draft = temporary(path)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        pulse.check(surely=True)
        os.rename(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):  # Why it failed matters more.
            os.unlink(draft)
        raise


@contextlib.contextmanager
def _spool(path: bytes) -> Generator[int]:
    """Yield a descriptor of a file without a name, on the file system of `path`."""
    name = temporary(path)
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(name)
        yield descriptor
    finally:
        os.close(descriptor)


def _unpack(descriptor: int, size: int, form: str, target: bytes, pulse: Pulse) -> Tally:
    budget = Budget(size)
    staging = Staging(target, pulse)
    try:
        unpacker = Unpacker(staging.open(), inward=True, budget=budget)
        try:
            for piece in _stream(descriptor, size, form, unpacker.tally, budget):
                pulse.check()
                unpacker.feed(piece)
                if unpacker.ended and form == "tar":
                    break  # The other formats have a checksum at their end.
            unpacker.finish()
        finally:
            unpacker.close()
        pulse.check(surely=True)
        staging.merge(unpacker.tally)
    finally:
        staging.discard()
    return unpacker.tally


def _stream(descriptor: int, size: int, form: str, tally: Tally, budget: Budget) -> Iterator[bytes]:
    """Yield an archive as a tar stream."""
    if form == "zip":
        yield from ZipSource(descriptor, size, tally, budget).tar()
        return

    def read() -> bytes:
        return os.read(descriptor, _CHUNK)

    decoder = _DECODERS.get(form)
    for piece in iter(read, b"") if decoder is None else decoder(read):
        budget.take(len(piece))
        yield piece
