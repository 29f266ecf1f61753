"""Directories with everything that a tar archive can hold, and their comparison."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

MIB = 1024 * 1024


def grow(top: Path) -> None:
    """Fill a directory with files of all kinds, sizes, names, modes and times."""
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "hollow").mkdir()
    (top / "empty").touch()
    (top / "one").write_bytes(b"1")
    for size in (511, 512, 513, 128 * 1024, 128 * 1024 + 1, 3 * MIB + 17):
        (top / "sub" / f"size-{size}").write_bytes(os.urandom(size))
    (top / "sub" / "deep" / "naïve \n'\"$?#%\\").write_text("odd")
    Path(os.fsdecode(os.fsencode(top) + b"/no text \xff\xfe")).write_bytes(b"bytes")
    (top / ("n" * 200)).write_text("long")
    long = top / ("a" * 90) / ("b" * 90) / ("c" * 90)
    long.mkdir(parents=True)
    (long / "far").write_text("far down")
    (top / "run").write_text("#!/bin/sh\necho ran")
    (top / "run").chmod(0o755)
    (top / "secret").write_text("secret")
    (top / "secret").chmod(0o600)
    (top / "link").symlink_to("sub/size-511")
    (top / "lost").symlink_to("nowhere/at/all")
    (top / "sub" / "up").symlink_to("../hollow")
    (top / ("l" * 150)).symlink_to("t" * 150)
    os.mkfifo(top / "pipe", 0o640)
    os.link(top / "one", top / "sub" / "same")
    with (top / "holes").open("wb") as file:
        file.seek(5 * MIB)
        file.write(b"in the middle")
        file.truncate(2**33)
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(0, 10**18 + number * 1_000_000_007), follow_symlinks=False)
    os.utime(top / "empty", ns=(0, -1_500_000_000))
    (top / "sub" / "deep").chmod(0o550)


def look(top: Path) -> dict[str, tuple[Any, ...]]:
    """Return kind, mode, time and content (or link target) of everything below a directory."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in (top, *top.rglob("*")):
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            small = status.st_size < 2**24
            content = path.read_bytes() if small else (status.st_size, pieces(path))
        elif stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        mode = 0 if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
        found[str(path.relative_to(top))] = (stat.S_IFMT(status.st_mode), mode, status.st_mtime_ns, content)
    return found


def pieces(path: Path) -> list[tuple[int, bytes]]:
    """Return the parts of a sparse file that are not zeros, with their offsets."""
    found: list[tuple[int, bytes]] = []
    with path.open("rb") as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return found
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            data = os.pread(file.fileno(), end - at, at)
            start = at + len(data) - len(data.lstrip(b"\0"))
            if data.strip(b"\0"):
                found.append((start, data.strip(b"\0")))
            at = end


def socket_at(path: Path) -> None:
    """Create a socket file."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
