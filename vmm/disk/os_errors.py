"""What goes wrong with the host's files, told to callers in one way, wherever it goes wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CasemateError, HostExhausted, Unavailable

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the kernel says where a file system has no room, or no more for this user."""
EXHAUSTED = NO_SPACE | {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What says nothing about the file at hand: the host, or this process, lacks something."""


@contextmanager
def translate_os_errors(what: str, place: Path) -> Generator[None]:
    """Have a step on the host's files end well, or in an error that callers know.

    Args:
        what: What is worked on, as in "no room for WHAT".
        place: Where it lies, or shall lie; its file system is named where that is full.

    Raises:
        HostExhausted: The disk is full, or the server may open no more files, or memory is short.
        Unavailable: The host refuses it, or its disk fails.
    """
    try:
        yield
    except OSError as error:
        raise translate_os_error(error, what, place) from error


def translate_os_error(error: OSError, what: str, place: Path) -> CasemateError:
    """The error that callers know for one of the host's; see `translate_os_errors`."""
    if error.errno in NO_SPACE:
        return HostExhausted(
            f"The host's disk is full: no room for {what} on {file_system(place)}",
            hint="Free space or delete sandboxes",
        )
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return HostExhausted(
            f"{'The server' if error.errno == errno.EMFILE else 'The host'} has too many files open for {what}",
            hint="Try again in a moment; the operator may raise the limit (LimitNOFILE= of the service, ulimit -n)",
        )
    if error.errno == errno.ENOMEM:
        return HostExhausted(f"The host lacks memory for {what}", hint="Delete a sandbox, or try again in a moment")
    # A deadline that passed is an OSError, too, and has no number.
    reason = error.strerror or str(error) or "it takes too long"
    return Unavailable(
        f"The host fails at {what}: {reason} ({error.filename or place})", hint="Tell the operator, or try again later"
    )


def file_system(place: Path) -> Path:
    """Where the file system is mounted on which a file lies, or would lie."""
    path = place.absolute()
    return next(step for step in (path, *path.parents) if os.path.ismount(step))
