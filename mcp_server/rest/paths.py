"""Paths in the guest as clients give them: query parameters, checked before anything is touched."""

from __future__ import annotations

import posixpath
from typing import Annotated

from pydantic import AfterValidator

_MAX_PATH = 4095


def absolute(path: str) -> str:
    """A path that begins at the root; a relative one is taken from there.

    Raises:
        ValueError: It is empty, too long, or has characters that no path has.
    """
    if not path:
        raise ValueError("Give a path")
    if "\0" in path:
        raise ValueError("A path has no NUL characters")
    whole = path if path.startswith("/") else f"/{path}"
    size = len(whole.encode())
    if size > _MAX_PATH:
        raise ValueError(f"{size} bytes are too many, the longest path has {_MAX_PATH}")
    return whole


def parent(path: str) -> str:
    """The directory of a path."""
    return posixpath.dirname(path.rstrip("/")) or "/"


GuestPath = Annotated[str, AfterValidator(absolute)]
"""An absolute path, or a relative one that is made absolute."""
