"""The agent's error answers: a code that the host maps to its exceptions, and a message."""

from __future__ import annotations

import errno
import os

INVALID = "invalid_input"
MISSING = "file_not_found"
REFUSED = "file_refused"
FULL = "disk_full"
NO_PROCESS = "process_not_found"
CONFLICT = "conflict"
GUEST = "guest_error"

_CODES = {
    errno.ENOENT: MISSING,
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.ENAMETOOLONG: INVALID,
    errno.ENOTDIR: REFUSED,
    errno.EISDIR: REFUSED,
    errno.EACCES: REFUSED,
    errno.EPERM: REFUSED,
    errno.EROFS: REFUSED,
    errno.ENOTEMPTY: REFUSED,
    errno.EEXIST: REFUSED,
    errno.EBUSY: REFUSED,
    errno.ELOOP: REFUSED,
    errno.EXDEV: REFUSED,
    errno.ETXTBSY: REFUSED,
    errno.ENXIO: REFUSED,
    errno.EINVAL: REFUSED,
}


class RefusalError(Exception):
    """An operation was refused or failed; nothing of it remains, except for what an archive had unpacked.

    Attributes:
        code: One of this module's codes.
        message: What is wrong, with the value and the way out.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> RefusalError:
    """Create the refusal of an invalid argument."""
    return RefusalError(INVALID, message)


def from_os_error(error: OSError, path: bytes = b"") -> RefusalError:
    """Create the refusal for a failed system call on `path`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    message = f"{shown(path)}: {reason}" if path else reason
    return RefusalError(_CODES.get(error.errno or 0, GUEST), message)


def shown(raw: bytes) -> str:
    """Return a path or name for a message: any bytes, as at most 80 characters."""
    text = raw.decode("utf-8", "backslashreplace")
    return text if len(text) <= 80 else f"{text[:50]}...{text[-27:]}"
