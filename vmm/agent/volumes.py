"""Volumes: disks that the host adds while the machine runs, mounted where the sandbox's programs see them.

A disk is found by its serial number, which only the host can set. Its device is named relative to the machine's /dev,
which is not mounted in the sandbox. The paths of mounts are the sandbox's, since both share one mount namespace.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import errno
import fcntl
import os
import time
from dataclasses import dataclass
from typing import Self

from .arguments import Arguments
from .channel import Channel
from .procfs import processes, read
from .refusals import CONFLICT, GUEST, RefusalError, invalid, shown
from .spawn import Spawner

_LIBC = ctypes.CDLL(None, use_errno=True)  # CDLL releases the GIL, since these calls wait for disks.
_OWN_DIRECTORY = 0x00000200  # CLONE_FS
_READ_ONLY, _NOSUID, _NODEV, _NOATIME = 0x1, 0x2, 0x4, 0x400
_NOFOLLOW = 0x8
_FREEZE, _THAW = 0xC0045877, 0xC0045878  # FIFREEZE, FITHAW of linux/fs.h
_POLL_S = 0.01
_MOST_HOLDERS = 5
_SERIAL_PAGE_HEADER = 4
_KERNEL_ONLY = (b"/proc", b"/sys", b"/dev")
_NEEDED = frozenset(
    (b"/", b"/bin", b"/boot", b"/etc", b"/lib", b"/lib64", b"/run", b"/sbin", b"/usr", b"/var", *_KERNEL_ONLY)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    path: bytes
    read_only: bool


class Volumes:
    """Mounts and unmounts volumes.

    Args:
        proc: A descriptor of the agent's own /proc.
        devices: A descriptor of the machine's /dev.
        blocks: A descriptor of the machine's /sys/block.
        spawner: Starts the sandbox's programs.
    """

    def __init__(self, proc: int, devices: int, blocks: int, spawner: Spawner) -> None:
        self._spawner = spawner
        self._proc = proc
        self._devices = devices
        self._blocks = blocks
        self._freezes: dict[str, object] = {}

    @classmethod
    def open(cls, proc: int, spawner: Spawner) -> Self:
        """Open the directories, before the root changes."""
        devices, blocks = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in ("/dev", "/sys/block"))
        return cls(proc, devices, blocks, spawner)

    def mount(self, channel: Channel, arguments: Arguments) -> None:
        """Mount a volume, and make the directory for it; if it is mounted there already, only let writes go on."""
        serial, path = arguments.text("serial"), arguments.path()
        read_only, limit_ms = arguments.flag("read_only"), arguments.integer("limit_ms")
        path = _checked(path)
        name = self._await(serial, limit_ms)
        if any(mount.path == path for mount in self._mounts(name)):
            self._thaw(serial)  # The server may have ended while it copied the volume.
        else:
            if any(mount.path == path for mount in self._mounts("")):
                raise RefusalError(CONFLICT, f"path: another file system is mounted at {shown(path)}")
            os.makedirs(path, exist_ok=True)
            self._mount(name, path, read_only=read_only)
        channel.send_result({"path": path.decode("utf-8", "replace")})

    def unmount(self, channel: Channel, arguments: Arguments) -> None:
        """Write everything to a volume and unmount it, wherever it is mounted; does nothing without such a disk."""
        name = self._find(arguments.text("serial"))
        if name:
            mounts = self._mounts(name)
            for mount in mounts[:1]:  # Also if it is in use, so that its machine can be ended.
                _sync(mount.path)
            for mount in reversed(mounts):
                if _LIBC.umount2(mount.path, _NOFOLLOW) != 0:
                    number = ctypes.get_errno()
                    if number != errno.EBUSY:
                        raise OSError(number, os.strerror(number))
                    raise RefusalError(CONFLICT, f"{shown(mount.path)} is in use by {self._holders(mount.path)}")
            self._check_free(name)
        channel.send_result({})

    def freeze(self, channel: Channel, arguments: Arguments) -> None:
        """Write everything to a volume, and hold back writes until `thaw`, or until `limit_ms` have passed."""
        serial, limit_ms = arguments.text("serial"), arguments.integer("limit_ms", least=1)
        written = [mount.path for mount in self._mounts_of(serial) if not mount.read_only]
        if written:
            self._freezes[serial] = freeze = object()
            _control(written[0], _FREEZE)
            _thread.start_new_thread(self._thaw_later, (serial, freeze, limit_ms / 1000))
        channel.send_result({"frozen": bool(written)})

    def thaw(self, channel: Channel, arguments: Arguments) -> None:
        """Let writes go on."""
        self._thaw(arguments.text("serial"))
        channel.send_result({})

    def pause(self, channel: Channel, arguments: Arguments) -> None:
        """Stop the sandbox's programs, so that none notices that its volumes are gone, until `resume`."""
        del arguments
        self._spawner.pause()
        channel.send_result({})

    def resume(self, channel: Channel, arguments: Arguments) -> None:
        """Let the sandbox's programs go on; does nothing if they run."""
        del arguments
        self._spawner.resume()
        channel.send_result({})

    def _thaw_later(self, serial: str, freeze: object, seconds: float) -> None:
        time.sleep(seconds)
        # It holds nothing open meanwhile, since the volume may be unmounted or frozen again.
        if self._freezes.get(serial) is freeze:
            with contextlib.suppress(OSError):
                self._thaw(serial)

    def _thaw(self, serial: str) -> None:
        self._freezes.pop(serial, None)
        for mount in self._mounts_of(serial)[:1]:
            try:
                _control(mount.path, _THAW)
            except OSError as error:
                if error.errno != errno.EINVAL:  # It was not frozen.
                    raise

    def _mounts_of(self, serial: str) -> list[_Mount]:
        name = self._find(serial)
        return self._mounts(name) if name else []

    def _await(self, serial: str, limit_ms: int) -> str:
        """Return the name of the disk that the host has just added."""
        end = time.monotonic() + limit_ms / 1000
        while not (name := self._find(serial)):
            if time.monotonic() > end:
                raise RefusalError(GUEST, f"the machine did not find the volume's disk within {limit_ms} ms")
            time.sleep(_POLL_S)
        return name

    def _find(self, serial: str) -> str:
        """Return the name of the disk with a serial number; empty if there is none."""
        wanted = serial.encode()
        with os.scandir(self._blocks) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            virtio = read(self._blocks, f"{name}/serial").strip()
            scsi = read(self._blocks, f"{name}/device/vpd_pg80")[_SERIAL_PAGE_HEADER:].strip(b"\0 ")
            # The node appears a moment after the disk.
            if wanted in {virtio, scsi} and self._exists(name):
                return name
        return ""

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._devices)
        except OSError:
            return False
        return True

    def _mounts(self, name: str) -> list[_Mount]:
        """Return where a disk is mounted, in the order of mounting; with an empty name, all mounts."""
        number = read(self._blocks, f"{name}/dev").strip() if name else b""
        found: list[_Mount] = []
        for line in read(self._proc, "self/mountinfo").splitlines():
            fields = line.split(b" ")
            if fields[2] == number or not name:
                path = _unescaped(fields[4])
                found.append(_Mount(path=path, read_only=b"ro" in fields[5].split(b",")))
        return found

    def _mount(self, name: str, path: bytes, *, read_only: bool) -> None:
        # mount(2) takes no descriptor. This thread gets a working directory of its own, for the device's name.
        _call(_LIBC.unshare(_OWN_DIRECTORY))
        os.fchdir(self._devices)
        try:
            flags = _NOSUID | _NODEV | _NOATIME | (_READ_ONLY if read_only else 0)
            options = b"errors=remount-ro" if read_only else b"errors=remount-ro,discard"
            _call(_LIBC.mount(name.encode(), path, b"ext4", ctypes.c_ulong(flags), options))
        except OSError as error:
            if error.errno == errno.EROFS:
                raise RefusalError(
                    CONFLICT, "the volume was in use when its last machine ended; attach it read-write once"
                ) from error
            raise RefusalError(GUEST, f"the volume cannot be mounted at {shown(path)}: {error.strerror}") from error
        finally:
            os.chdir("/")

    def _check_free(self, name: str) -> None:
        try:
            os.close(os.open(name, os.O_RDONLY | os.O_EXCL, dir_fd=self._devices))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise RefusalError(
                CONFLICT, "the volume is still mounted in a mount namespace of a program, such as a container"
            ) from error

    def _holders(self, path: bytes) -> str:
        """Name the processes that use a file system."""
        device = os.stat(path).st_dev
        found: list[str] = []
        for pid in processes(self._proc):
            if self._uses(pid, device):
                inner = read(self._proc, f"{pid}/status").partition(b"NSpid:")[2].split(b"\n", 1)[0].split()
                command = read(self._proc, f"{pid}/comm").strip().decode("utf-8", "replace")
                found.append(f"{command} ({inner[-1].decode() if inner else pid})")
        more = f" and {len(found) - _MOST_HOLDERS} more" if len(found) > _MOST_HOLDERS else ""
        return ", ".join(found[:_MOST_HOLDERS]) + more or "a program"

    def _uses(self, pid: str, device: int) -> bool:
        with contextlib.suppress(OSError):  # The process has ended.
            for name in ("cwd", "root", "exe", *(f"fd/{number}" for number in _descriptors(self._proc, pid))):
                with contextlib.suppress(OSError):
                    if os.stat(f"{pid}/{name}", dir_fd=self._proc).st_dev == device:
                        return True
        return False


def _descriptors(proc: int, pid: str) -> list[str]:
    directory = os.open(f"{pid}/fd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    try:
        return os.listdir(directory)
    finally:
        os.close(directory)


def _unescaped(path: bytes) -> bytes:
    """Return a path of mountinfo, which has spaces and the like as three octal digits after a backslash."""
    first, *others = path.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in others)


def _checked(path: bytes) -> bytes:
    """Return the path without links and dots, if a volume may be mounted there."""
    real = os.path.realpath(path)
    if real in _NEEDED or any(real.startswith(prefix + b"/") for prefix in _KERNEL_ONLY):
        raise invalid(f"path must be a directory of the sandbox's own, such as /data, got {shown(path)}")
    return real


def _sync(path: bytes) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _call(_LIBC.syncfs(descriptor))
    finally:
        os.close(descriptor)


def _control(path: bytes, request: int) -> None:
    """Make a request to the file system that is mounted at a path."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, request, 0)
    finally:
        os.close(descriptor)


def _call(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
