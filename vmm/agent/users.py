"""Users and groups from the sandbox's own /etc/passwd and /etc/group, without the C library's name services."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .refusals import invalid, shown

_PASSWD = b"/etc/passwd"
_GROUP = b"/etc/group"
_SHELL = b"/bin/sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """The user that a command runs as."""

    name: bytes
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: bytes
    shell: bytes


class Users:
    """Looks up users, and reads the files again only when they have changed.

    Args:
        passwd: The path of the passwd file.
    """

    def __init__(self, passwd: bytes = _PASSWD) -> None:
        self._passwd = passwd
        self._stamp: object = None
        self._found: dict[bytes, User] = {}

    def find(self, wanted: bytes) -> User:
        """Return the user with a name or decimal uid; empty means the agent's own user, which is root in a guest.

        Raises:
            RefusalError: There is no such user.
        """
        wanted = wanted or b"%d" % os.geteuid()
        stamp = (_stamp(self._passwd), _stamp(_GROUP))
        if stamp != self._stamp:
            self._found = {}
            self._stamp = stamp
        user = self._found.get(wanted)
        if user is None:
            user = _look_up(wanted, self._passwd)
            if len(self._found) < 100:
                self._found[wanted] = user
        return user


def _look_up(wanted: bytes, passwd: bytes) -> User:
    for line in _read(passwd).split(b"\n"):
        fields = line.split(b":")
        if len(fields) < 7 or not (fields[2].isdigit() and fields[3].isdigit()):
            continue
        if wanted not in {fields[0], fields[2]}:
            continue
        name, gid = fields[0], int(fields[3])
        return User(
            name=name,
            uid=int(fields[2]),
            gid=gid,
            groups=_groups_of(name, gid),
            home=fields[5] or b"/",
            shell=fields[6] or _SHELL,
        )
    own = b"%d" % os.geteuid()
    if wanted in {own, b"root" if own == b"0" else own}:
        # The agent's own user exists even if the file does not.
        home, name = (b"/root", b"root") if own == b"0" else (b"/", own)
        return User(name=name, uid=os.geteuid(), gid=os.getegid(), groups=(os.getegid(),), home=home, shell=_SHELL)
    raise invalid(f"user: {shown(wanted)!r} is not in the sandbox's /etc/passwd")


def _groups_of(name: bytes, gid: int) -> tuple[int, ...]:
    groups = [gid]
    for line in _read(_GROUP).split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 4 and fields[2].isdigit() and name in fields[3].split(b",") and int(fields[2]) != gid:
            groups.append(int(fields[2]))
    return tuple(groups)


def _stamp(path: bytes) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read(path: bytes) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        data = b""
        while len(data) < 4 * 1024 * 1024 and (piece := os.read(descriptor, 65536)):
            data += piece
    except OSError:
        return b""
    else:
        return data
    finally:
        os.close(descriptor)
