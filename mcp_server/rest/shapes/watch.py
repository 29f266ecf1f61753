"""Types of watches of files in answers and messages."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from mcp_server.shapes import Timestamp

_TYPES = "created, modified, deleted, renamed, chmod, unmounted, or overflow: events below the path are missing."


class NewWatch(TypedDict):
    """A watch that has begun."""

    sessionId: Annotated[str, Field(json_schema_extra={"format": "uuid"})]


class FileEventObject(TypedDict):
    """Something that happened to a file or directory."""

    type: Annotated[str, Field(description=_TYPES)]
    path: str
    oldPath: NotRequired[Annotated[str, Field(description="The path until now, if it was renamed.")]]
    size: NotRequired[Annotated[int, Field(description="Bytes of a file that was created or modified.")]]
    isDir: NotRequired[Annotated[bool, Field(description="Whether it is a directory; an overflow does not say so.")]]
    timestamp: Timestamp
    reason: NotRequired[Annotated[str, Field(description="Why events are missing, or nothing is watched any more.")]]
