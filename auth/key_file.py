"""The file in which the local operator finds the key: private from its first moment, whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from .errors import KeyFileError

_MOST_BYTES = 4096


def read_key(path: Path) -> str:
    """What the file says, without the white space around it; empty if there is no such file or it is no text.

    A file that others may read is made private.

    Raises:
        KeyFileError: It is there but cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:  # noqa: PTH123 -- by descriptor
            mode = os.fstat(fd).st_mode
            if mode & 0o077:
                os.fchmod(fd, mode & 0o700)
            return file.read(_MOST_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}; check its owner and mode") from error


def write_key(path: Path, key: str) -> None:
    """Put the key into the file with mode 0600, in one step; a directory made for it is its owner's alone.

    Raises:
        KeyFileError: It cannot be written; what was there stays.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w", encoding="ascii") as file:  # noqa: PTH123 -- by descriptor
                file.write(f"{key}\n")
                file.flush()
                os.fsync(fd)
            new.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one that counts
                new.unlink()
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}; free the place or choose another directory") from error


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
