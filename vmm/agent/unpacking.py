"""A tar stream into a directory. No member gets out of it, whatever the archive says and whatever lies there.

Every step goes by descriptors and names of one directory: no link is ever followed, none that was there, none that the
archive brought. New content takes its name only when it is whole; nothing that exists is written into.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator

from . import tar
from .directories import FATAL, Directories, Refusal, split
from .tally import Tally
from .tar_stream import TarStream, Waiting

_DEVICES = {tar.CHARACTER, tar.BLOCKS}
_PERMISSIONS = 0o777


class _Left:
    """What has not been read of a member's content."""

    def __init__(self, count: int) -> None:
        self.bytes = count


class Unpacker:
    """Takes a stream piece by piece and makes what is in it.

    Devices are left out. Owners, and the bits that lend them, are left aside unless `owners` is given. What cannot be
    made is left out and told; a full disk, or what is no archive, ends the whole, and what was made before stays.

    Args:
        root: A directory's descriptor, taken over; see `close`.
        fresh: The directory was made for this: it gets the mode and time that the archive has for it.
        umask: Permissions that nothing gets.
        owners: Whether everything gets the archive's owners.
        inward: Whether links that lead out of the directory, or might, are left out: for archives that are not trusted.

    Attributes:
        tally: What was made, and what was left out, here and as the archive was packed.
    """

    def __init__(
        self, root: int, *, fresh: bool = False, umask: int = 0, owners: bool = False, inward: bool = False
    ) -> None:
        self.tally = Tally()
        self._owners = owners
        self._inward = inward
        self._mask = (0o7777 if owners else _PERMISSIONS) & ~umask
        self._directories = Directories(root, self._dress_directory, fresh=fresh, mode=_PERMISSIONS & ~umask & ~0o022)
        self._drafts = 0
        self._token = os.urandom(8).hex().encode()
        self._stream = TarStream()
        self._ended = False
        self._steps = self._run()
        next(self._steps)

    def feed(self, data: bytes) -> None:
        """Take the stream's next piece.

        Raises:
            TarError: It is no tar archive.
            OSError: The disk is full.
        """
        if not self._ended:
            self._steps.send(data)

    def finish(self) -> None:
        """The stream is over.

        Raises:
            TarError: The archive is not.
        """
        if not self._ended:
            raise tar.TarError("the archive ends in its middle")
        self.close()

    def close(self) -> None:
        """Close what is open; of a file that is not whole nothing stays."""
        self._ended = True
        self._steps.close()
        self._directories.close()

    def _run(self) -> Waiting[None]:
        while (member := (yield from self._stream.member(self.tally))) is not None:
            # Links and the like have no content, whatever their size says.
            size = 0 if member.kind in tar.KINDS and member.kind != tar.REGULAR else member.size
            left = _Left(size + -size % tar.BLOCK)
            try:
                if b"\0" in member.path + member.link:
                    raise Refusal("there is a NUL in its name")  # noqa: TRY301 - told like the others
                if member.kind == tar.REGULAR:
                    yield from self._file(member, left)
                else:
                    self._make(member)
            except Refusal as refusal:
                self.tally.skip(member.path, str(refusal))
            except OSError as error:
                if error.errno in FATAL:
                    raise
                self.tally.skip(member.path, os.strerror(error.errno or 0))
            while left.bytes:
                left.bytes -= len((yield from self._stream.some(left.bytes)))
        self._directories.leave()
        self._ended = True
        yield

    def _file(self, member: tar.Member, left: _Left) -> Waiting[None]:
        with self._new_file(member) as descriptor:
            parts = [(0, member.size)]
            if member.whole is not None:
                parts, told = yield from self._stream.holes(member)
                left.bytes -= told
            for start, length in parts:
                os.lseek(descriptor, start, os.SEEK_SET)
                end = left.bytes - length
                while left.bytes > end:
                    piece = yield from self._stream.some(left.bytes - end)
                    left.bytes -= len(piece)
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
                with self._draft(member) as (parent, draft):
                    os.mkfifo(draft, 0o600, dir_fd=parent)
                    descriptor = os.open(draft, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=parent)
                    try:
                        self._dress(descriptor, member)
                    finally:
                        os.close(descriptor)
            case _:
                kind = "a device" if member.kind in _DEVICES else f"of a kind {member.kind!r} that is not known here"
                raise Refusal(kind)

    def _link(self, member: tar.Member) -> None:
        if self._inward and _leads_out(len(split(member.path)) - 1, member.link):
            raise Refusal("a link that leads out of the directory")
        with self._draft(member) as (parent, draft):
            os.symlink(member.link, draft, dir_fd=parent)
            if self._owners:
                os.chown(draft, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            _set_time(draft, member, parent)

    def _hard_link(self, member: tar.Member) -> None:
        *above, last = split(member.link) or [b"."]
        origin = self._directories.open_existing(above)
        try:
            status = os.stat(last, dir_fd=origin, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise Refusal("a hard link to what is no file")
            with self._draft(member) as (parent, draft):
                os.link(last, draft, src_dir_fd=origin, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(origin)

    @contextlib.contextmanager
    def _new_file(self, member: tar.Member) -> Generator[int]:
        with self._draft(member) as (parent, draft):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(draft, flags, 0o600, dir_fd=parent)
            try:
                yield descriptor
                self._dress(descriptor, member)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _draft(self, member: tar.Member) -> Generator[tuple[int, bytes]]:
        """The directory that a member goes into, and a name to make it under, which becomes its own at the end."""
        *above, last = split(member.path) or [b""]
        if not last:
            raise Refusal("it has no name")
        parent = self._directories.enter(above)
        self._drafts += 1
        draft = b".casemate-%s-%d" % (self._token, self._drafts)
        named = False
        try:
            yield parent, draft
            os.rename(draft, last, src_dir_fd=parent, dst_dir_fd=parent)
            # To put a link in the place of another one to the same file does nothing, and leaves both.
            named = member.kind != tar.HARD
            self.tally.files += 1
        finally:
            if not named:
                with contextlib.suppress(OSError):
                    os.unlink(draft, dir_fd=parent)

    def _dress_directory(self, descriptor: int, member: tar.Member) -> None:
        try:
            self._dress(descriptor, member)
        except OSError as error:
            self.tally.skip(member.path, f"its mode and time: {os.strerror(error.errno or 0)}")

    def _dress(self, descriptor: int, member: tar.Member) -> None:
        if self._owners:
            os.fchown(descriptor, member.uid, member.gid)
        os.fchmod(descriptor, member.mode & self._mask)
        _set_time(descriptor, member)


def _leads_out(depth: int, link: bytes) -> bool:
    """Whether a link in so many directories could lead out of the outermost.

    Steps upwards count only at its beginning, where they leave real directories: after a name, which may be another
    link, nobody knows what they leave.
    """
    if link.startswith(b"/"):
        return True
    parts = [part for part in link.split(b"/") if part not in {b"", b"."}]
    upwards = next((count for count, part in enumerate(parts) if part != b".."), len(parts))
    return upwards > depth or b".." in parts[upwards:]


def _set_time(where: int | bytes, member: tar.Member, parent: int | None = None) -> None:
    times = (member.mtime_ns, member.mtime_ns)
    # A time that the file system cannot have is no reason to leave a file out.
    with contextlib.suppress(OverflowError):
        if isinstance(where, int):
            os.utime(where, ns=times)
        else:
            os.utime(where, ns=times, dir_fd=parent, follow_symlinks=False)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
