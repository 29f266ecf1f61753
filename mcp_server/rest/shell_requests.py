"""Query parameters of the file operations in the form of shell commands."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from .body import WireModel
from .paths import GuestPath

_GLOB = frozenset("*?[")


def _plain(text: str) -> str:
    if "\0" in text:
        raise ValueError("Must not contain NUL characters")
    return text


class OnePath(WireModel):
    """An operation on one path."""

    path: GuestPath


class HomePath(WireModel):
    """An operation on one path, by default root's home."""

    path: GuestPath = "/root"


class NewFile(WireModel):
    """A file to create."""

    path: GuestPath
    content: str | None = None


class Content(WireModel):
    """The content of a new file."""

    content: str | None = None


class TwoPaths(WireModel):
    """An operation from one path to another."""

    source: GuestPath = Field(alias="from")
    target: GuestPath = Field(alias="to")


class Part(WireModel):
    """The first or the last lines of a file."""

    path: GuestPath
    lines: int = Field(default=10, ge=0)
    head: str = ""


class Permissions(WireModel):
    """New permissions for a path."""

    path: GuestPath
    mode: Annotated[str, Field(min_length=1, max_length=10), AfterValidator(_plain)]


class Pattern(WireModel):
    """Names to search for: a part of the name, or a glob."""

    path: GuestPath = "/root"
    pattern: Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_plain)]

    @property
    def glob(self) -> str:
        """The glob that the whole name must match."""
        return self.pattern if _GLOB & set(self.pattern) else f"*{self.pattern}*"
