"""The file with the local operator's key: created with mode 0600 and replaced atomically."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from .errors import KeyFileError

_MOST_BYTES = 4096


def read_key(path: Path) -> str:
    """Read the key, without surrounding white space; empty if the file does not exist.

    A file that others may read is made private.

    Raises:
        KeyFileError: The file exists but cannot be read.
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
    """Write the key atomically with mode 0600; a missing directory is created with mode 0700.

    Raises:
        KeyFileError: The file cannot be written; its old content stays.
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
            with contextlib.suppress(OSError):  # the first error is the one to report
                new.unlink()
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}; check the directory, or choose another one") from error


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
