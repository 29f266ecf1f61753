"""Paths in the guest, validated as query parameters."""

from __future__ import annotations

import posixpath
from typing import Annotated

from pydantic import AfterValidator

_MAX_PATH = 4095


def absolute(path: str) -> str:
    """Make a path absolute; a relative one is resolved against the root directory.

    Raises:
        ValueError: The path is empty, too long, or contains NUL characters.
    """
    if not path:
        raise ValueError("Must not be empty")
    if "\0" in path:
        raise ValueError("Must not contain NUL characters")
    whole = path if path.startswith("/") else f"/{path}"
    size = len(whole.encode())
    if size > _MAX_PATH:
        raise ValueError(f"Must have at most {_MAX_PATH} bytes, got {size}")
    return whole


def parent(path: str) -> str:
    """Return the directory of a path."""
    return posixpath.dirname(path.rstrip("/")) or "/"


GuestPath = Annotated[str, AfterValidator(absolute)]
"""An absolute path, or a relative one that is made absolute."""
