"""A user for every machine's hypervisor, if the server is root, so that a compromised one can reach nothing else.

The user is computed from the machine's name, so nothing needs to be stored. The server still owns the machine's
directory, and the machine's group may write to it. So the machine cannot replace the server's files there (the disk,
the memory, `machine.json`) by links to other users' files, which a server as root would follow.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import Unavailable
from .cgroup import name_of

# Above the ids that systemd assigns to containers, below those that it reserves (its UIDS-GIDS.md).
_FIRST, _COUNT = 0x7000_0000, 0x0FFE_0000
_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,  # to drop all of these for the program
    "CAP_SYS_PTRACE": 19,  # to read the working directory of another user's process
}


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """The user of a machine's hypervisor.

    Attributes:
        uid: User and group id; no other process has it.
        groups: Further groups, for files that it must open: the KVM device.
    """

    uid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoUsers:
    """Why machines run as the server's user, and how to give them users of their own."""

    reason: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """The users of machines.

    Attributes:
        groups: The groups of each user besides its own.
    """

    groups: tuple[int, ...] = ()

    def of(self, directory: Path) -> User:
        """Return the user of the machine that has this directory."""
        digest = hashlib.sha256(name_of(directory).encode()).digest()
        return User(uid=_FIRST + int.from_bytes(digest[:8], "big") % _COUNT, groups=self.groups)

    def obstacle(self, directory: Path, program: str, files: Iterable[Path]) -> str:
        """Explain to the operator why a machine cannot run as a user of its own; empty if it can.

        Args:
            directory: The machine's directory.
            program: Its hypervisor.
            files: The files that it opens.
        """
        place = Path(shutil.which(program) or program).resolve()
        for step in (place, *place.parents):
            if not step.stat().st_mode & stat.S_IXOTH:
                return f"{step} is not executable for all users"
        for file in files:
            if not file.is_relative_to(directory):
                return f"{file} is not in the machine's directory"
            if file.is_symlink():
                return f"a hard link from the instances' file system to {file.readlink()} is impossible"
        return ""

    def give(self, directory: Path, *, reads: Iterable[Path], writes: Iterable[Path]) -> None:
        """Let a machine use its directory, read some files there, and write to others, which are created.

        A file that has hard links elsewhere belongs to several machines, so its group stays. Making it accessible to
        all users exposes nothing, because other users can enter none of the directories that it is in.

        Raises:
            OSError: A file does not exist, or the file system has no owners.
        """
        gid = self.of(directory).uid
        _share(directory, gid, 0o1770)
        for file in reads:
            for path in (file, *file.rglob("*")) if file.is_dir() else (file,):
                _share_with_all(path, 0o555 if path.is_dir() else 0o444)
        for file in writes:
            if not file.exists():  # otherwise the program would create and own it
                file.touch(mode=0o600)
            if file.stat().st_nlink > 1:
                _share_with_all(file, 0o666)
            else:
                _share(file, gid, 0o660)

    @staticmethod
    def lend(file: Path, *, writable: bool) -> None:
        """Let a running machine open a file that was linked into its directory, as `give` does for such files."""
        _share_with_all(file, 0o666 if writable else 0o444)

    def make_directory(self, directory: Path) -> None:
        """Make a directory inside a machine's directory for files that the machine writes; `reclaim` takes them over.

        Raises:
            OSError: It exists, or cannot be made.
        """
        directory.mkdir(mode=0o700)
        _share(directory, self.of(directory.parent).uid, 0o1770)


def reclaim(directory: Path) -> None:
    """Make the server the owner of what a machine wrote into a directory. Its process may still run and is not trusted.

    Raises:
        Unavailable: The directory contains something other than ordinary files, so the hypervisor may be compromised.
    """
    directory.chmod(0o700)
    os.chown(directory, os.geteuid(), os.getegid())
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise Unavailable(f"The hypervisor must write only ordinary files, got {path.name}")
            os.fchown(descriptor, os.geteuid(), os.getegid())
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)


def find(
    device: Path | None = None,
    status: Path = Path("/proc/self/status"),
    uid_map: Path = Path("/proc/self/uid_map"),
) -> Users | NoUsers:
    """Find out whether machines can have users of their own. Changes nothing.

    Args:
        device: A device that every machine must open, through its group: /dev/kvm with KVM.
        status: The kernel's status of this process.
        uid_map: The kernel's map of user ids.
    """
    if os.geteuid() != 0:
        return NoUsers(reason="the server is not root, so machines run as its user")
    effective = int(re.findall(r"^CapEff:\s*(\w+)", status.read_text(), re.MULTILINE)[0], 16)
    missing = ", ".join(name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1)
    if missing:
        return NoUsers(reason=f"the server is root without {missing}", fix=f"give it {missing}")
    ranges = [[int(field) for field in line.split()] for line in uid_map.read_text().splitlines()]
    if not any(first <= _FIRST and first + count >= _FIRST + _COUNT for first, _outside, count in ranges):
        return NoUsers(reason="the server's user namespace has too few user ids", fix="run it in the host's")
    return Users() if device is None else _with_device(device)


def _with_device(device: Path) -> Users | NoUsers:
    found = device.stat()
    if found.st_mode & 0o006 == 0o006:
        return Users()
    if found.st_mode & 0o060 == 0o060 and found.st_gid != 0:
        return Users(groups=(found.st_gid,))
    fix = f"sudo chgrp kvm {device} && sudo chmod 0660 {device}"
    return NoUsers(reason=f"only root can open {device}, no group", fix=fix)


def _share(path: Path, gid: int, mode: int) -> None:
    os.chown(path, -1, gid)
    path.chmod(mode)


def _share_with_all(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode | bits != mode:  # a needless change would set the ctime, which tells whether images are unchanged
        path.chmod(mode | bits)
