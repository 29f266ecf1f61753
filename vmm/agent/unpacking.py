"""Unpacking a tar stream into a directory. No member can escape it, whatever the archive or the directory holds.

Every step uses a directory's descriptor and a single name, so no symbolic link is ever followed, neither an existing
one nor one of the archive. A new file is renamed to its name only when it is complete; no existing file is written to.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator

from . import tar
from .archive_limits import Budget
from .directories import FATAL, Directories, Refusal, split
from .tally import Tally
from .tar_stream import TarStream, Waiting

_DEVICES = {tar.CHARACTER_DEVICE, tar.BLOCK_DEVICE}
_PERMISSIONS = 0o777


class _Remaining:
    """The number of bytes of a member's content that were not read yet."""

    def __init__(self, count: int) -> None:
        self.bytes = count


class Unpacker:
    """Unpacks a stream that arrives in pieces.

    Devices are skipped. Owners and the setuid, setgid and sticky bits are ignored unless `owners` is set. Members that
    cannot be created are skipped and reported. A full disk or an invalid archive ends the unpacking; what was created
    before stays.

    Args:
        root: The directory's descriptor; the unpacker owns it, see `close`.
        fresh: Whether the directory was created for this; if so, it gets the mode and time from the archive.
        umask: Permission bits that no member gets.
        owners: Whether members get the owners from the archive.
        inward: Whether to skip links that point, or might point, outside the directory, for untrusted archives.
        budget: Limits the number of members; None for no limit.

    Attributes:
        tally: What was created, and what was skipped at unpacking and at packing.
        ended: Whether the archive has ended; what follows is ignored.
    """

    def __init__(
        self,
        root: int,
        *,
        fresh: bool = False,
        umask: int = 0,
        owners: bool = False,
        inward: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self.tally = Tally()
        self.ended = False
        self._owners = owners
        self._inward = inward
        self._budget = budget
        self._mask = (0o7777 if owners else _PERMISSIONS) & ~umask
        self._directories = Directories(
            root, self._set_directory_metadata, fresh=fresh, mode=_PERMISSIONS & ~umask & ~0o022
        )
        self._temporaries = 0
        self._token = os.urandom(8).hex().encode()
        self._stream = TarStream()
        self._steps = self._run()
        next(self._steps)

    def feed(self, data: bytes) -> None:
        """Unpack the stream's next piece.

        Raises:
            TarError: The stream is not a valid tar archive.
            LimitError: It has too many members.
            OSError: The disk is full.
        """
        if not self.ended:
            self._steps.send(data)

    def finish(self) -> None:
        """Finish after the stream's last piece.

        Raises:
            TarError: The archive is incomplete.
        """
        if not self.ended:
            raise tar.TarError("the archive is truncated")
        self.close()

    def close(self) -> None:
        """Close all descriptors, and remove a file that is incomplete."""
        self.ended = True
        self._steps.close()
        self._directories.close()

    def _run(self) -> Waiting[None]:
        while (member := (yield from self._stream.member(self.tally))) is not None:
            if self._budget is not None:
                self._budget.member()
            # Links, devices and the like have no content, whatever size their header states.
            size = 0 if member.kind in tar.KINDS and member.kind != tar.REGULAR else member.size
            remaining = _Remaining(size + -size % tar.BLOCK)
            try:
                if b"\0" in member.path + member.link:
                    raise Refusal("its name or link contains a NUL character")  # noqa: TRY301 (reported like the others)
                if member.kind == tar.REGULAR:
                    yield from self._file(member, remaining)
                else:
                    self._make(member)
            except Refusal as refusal:
                self.tally.skip(member.path, str(refusal))
            except OSError as error:
                if error.errno in FATAL:
                    raise
                self.tally.skip(member.path, os.strerror(error.errno or 0))
            while remaining.bytes:
                remaining.bytes -= len((yield from self._stream.some(remaining.bytes)))
        self._directories.leave()
        self.ended = True
        yield

    def _file(self, member: tar.Member, remaining: _Remaining) -> Waiting[None]:
        with self._new_file(member) as descriptor:
            parts = [(0, member.size)]
            if member.whole is not None:
                parts, map_size = yield from self._stream.sparse_map(member)
                remaining.bytes -= map_size
            for start, length in parts:
                os.lseek(descriptor, start, os.SEEK_SET)
                end = remaining.bytes - length
                while remaining.bytes > end:
                    piece = yield from self._stream.some(remaining.bytes - end)
                    remaining.bytes -= len(piece)
                    _write(descriptor, piece)
                    self.tally.size += len(piece)
            if member.whole is not None:
                os.ftruncate(descriptor, member.whole)

    def _make(self, member: tar.Member) -> None:
        match member.kind:
            case tar.DIRECTORY:
                self._directories.make(member)
            case tar.SYMBOLIC:
                self._link(member)
            case tar.HARD:
                self._hard_link(member)
            case tar.FIFO:
                with self._temporary(member) as (parent, temporary):
                    os.mkfifo(temporary, 0o600, dir_fd=parent)
                    descriptor = os.open(temporary, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=parent)
                    try:
                        self._set_metadata(descriptor, member)
                    finally:
                        os.close(descriptor)
            case _:
                kind = "a device" if member.kind in _DEVICES else f"an unknown member type {member.kind!r}"
                raise Refusal(kind)

    def _link(self, member: tar.Member) -> None:
        if self._inward and _points_outside(len(split(member.path)) - 1, member.link):
            raise Refusal("a link that points outside the directory")
        with self._temporary(member) as (parent, temporary):
            os.symlink(member.link, temporary, dir_fd=parent)
            if self._owners:
                os.chown(temporary, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            _set_time(temporary, member, parent)

    def _hard_link(self, member: tar.Member) -> None:
        *above, last = split(member.link) or [b"."]
        origin = self._directories.open_existing(above)
        try:
            status = os.stat(last, dir_fd=origin, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise Refusal("a hard link whose target is not a regular file")
            with self._temporary(member) as (parent, temporary):
                os.link(last, temporary, src_dir_fd=origin, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(origin)

    @contextlib.contextmanager
    def _new_file(self, member: tar.Member) -> Generator[int]:
        with self._temporary(member) as (parent, temporary):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600, dir_fd=parent)
            try:
                yield descriptor
                self._set_metadata(descriptor, member)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _temporary(self, member: tar.Member) -> Generator[tuple[int, bytes]]:
        """Yield a member's directory and a temporary name; rename the temporary to the member's name at the end."""
        *above, last = split(member.path) or [b""]
        if not last:
            raise Refusal("its name is empty")
        parent = self._directories.enter(above)
        self._temporaries += 1
        temporary = b".casemate-%s-%d" % (self._token, self._temporaries)
        renamed = False
        try:
            yield parent, temporary
            os.rename(temporary, last, src_dir_fd=parent, dst_dir_fd=parent)
            # Renaming a hard link onto another link to the same file does nothing and leaves both.
            renamed = member.kind != tar.HARD
            self.tally.files += 1
        finally:
            if not renamed:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)

    def _set_directory_metadata(self, descriptor: int, member: tar.Member) -> None:
        try:
            self._set_metadata(descriptor, member)
        except OSError as error:
            self.tally.skip(member.path, f"its mode and time were not set: {os.strerror(error.errno or 0)}")

    def _set_metadata(self, descriptor: int, member: tar.Member) -> None:
        if self._owners:
            os.fchown(descriptor, member.uid, member.gid)
        os.fchmod(descriptor, member.mode & self._mask)
        _set_time(descriptor, member)


def _points_outside(depth: int, link: bytes) -> bool:
    """Tell whether a link, `depth` directories below the root, could point outside the root.

    Leading `..` parts leave real directories and can be counted. After a name, which may itself be a link, the effect
    of `..` is unknown.
    """
    if link.startswith(b"/"):
        return True
    parts = [part for part in link.split(b"/") if part not in {b"", b"."}]
    upwards = next((count for count, part in enumerate(parts) if part != b".."), len(parts))
    return upwards > depth or b".." in parts[upwards:]


def _set_time(where: int | bytes, member: tar.Member, parent: int | None = None) -> None:
    times = (member.mtime_ns, member.mtime_ns)
    # A time that the file system cannot store is no reason to skip the file.
    with contextlib.suppress(OverflowError):
        if isinstance(where, int):
            os.utime(where, ns=times)
        else:
            os.utime(where, ns=times, dir_fd=parent, follow_symlinks=False)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
