"""Errors of the kernel about the host's files, translated to errors of Casemate in one place."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CasemateError, HostExhausted, Unavailable

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors that say that a file system is full, or that this user's quota on it is."""
EXHAUSTED = NO_SPACE | {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that are not about the file: the host, or this process, lacks something."""


@contextmanager
def translate_os_errors(what: str, place: Path) -> Generator[None]:
    """Translate the kernel's errors in a block.

    Args:
        what: What is worked on, as in "no space for WHAT" and "the host failed at WHAT".
        place: Where it is, or will be; the message names this file system if it is full.

    Raises:
        HostExhausted: The disk is full, too many files are open, or memory is short.
        Unavailable: The host refuses it, or its disk fails.
    """
    try:
        yield
    except OSError as error:
        raise translate_os_error(error, what, place) from error


def translate_os_error(error: OSError, what: str, place: Path) -> CasemateError:
    """Translate one error of the kernel; see `translate_os_errors`."""
    if error.errno in NO_SPACE:
        return HostExhausted(
            f"The host's disk is full: no space for {what} on {file_system(place)}",
            hint="Free space or delete sandboxes",
        )
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return HostExhausted(
            f"{'The server' if error.errno == errno.EMFILE else 'The host'} has too many files open for {what}",
            hint="Try again in a moment; the operator may raise the limit (LimitNOFILE= of the service, ulimit -n)",
        )
    if error.errno == errno.ENOMEM:
        return HostExhausted(f"The host lacks memory for {what}", hint="Delete a sandbox, or try again in a moment")
    # A TimeoutError is an OSError too, and has no number.
    reason = error.strerror or str(error) or "it takes too long"
    return Unavailable(
        f"The host failed at {what}: {reason} ({error.filename or place})",
        hint="Tell the operator, or try again later",
    )


def file_system(place: Path) -> Path:
    """Return the mount point of the file system that a file is on, or would be on."""
    path = place.absolute()
    return next(step for step in (path, *path.parents) if os.path.ismount(step))
