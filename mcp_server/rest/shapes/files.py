"""Types of files and archives in answers."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from mcp_server.shapes import Timestamp


class EntryObject(TypedDict):
    """An entry of a directory."""

    name: str
    path: str
    size: int
    mode: Annotated[str, Field(description="As ls shows it, such as -rw-r--r--.")]
    isDir: bool
    modTime: Timestamp
    type: Literal["file", "directory", "symlink", "other"]
    target: NotRequired[Annotated[str, Field(description="Where a symbolic link points to.")]]


class Listing(TypedDict):
    """A directory."""

    success: Literal[True]
    files: list[EntryObject]
    truncated: Annotated[bool, Field(description="Whether there are more entries.")]


class Uploaded(TypedDict):
    """A file that was written."""

    success: Literal[True]
    path: str
    size: int


class SkippedObject(TypedDict):
    """A member of an archive that was left out."""

    path: str
    reason: str


class ReportObject(TypedDict):
    """What was unpacked."""

    files: int
    bytes: int
    skipped: Annotated[list[SkippedObject], Field(description="The first thousand members that were left out.")]
    skippedCount: int


class ArchiveDetails(TypedDict, total=False):
    """What an archive that was written or unpacked adds to the outcome."""

    files: int
    bytes: int
    skipped: Annotated[list[SkippedObject], Field(description="The first entries that were left out.")]
    skippedCount: int


class Compressed(ArchiveDetails):
    """An archive that was made, as if a command had made it."""

    stdout: str
    stderr: str
    exitCode: Annotated[int, Field(description="0, or 1 if entries were left out, or 2 if nothing was written.")]
    archive: NotRequired[str]
    archiveBytes: NotRequired[int]


class Extracted(ArchiveDetails):
    """An archive that was unpacked, as if a command had done it."""

    stdout: str
    stderr: str
    exitCode: Annotated[int, Field(description="0, or 1 if entries were left out, or 2 if nothing was written.")]
    path: NotRequired[str]


class Unpacked(ReportObject):
    """An archive that was unpacked."""

    success: Literal[True]
    path: str
