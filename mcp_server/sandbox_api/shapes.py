"""Requests and answers of sandbox-api's routes, besides those of commands and files."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from mcp_server.shapes import Status, Timestamp

from ..rest.body import WireModel
from .execution import DEFAULT_S, LONGEST, LONGEST_DIRECTORY
from .names import LONGEST as LONGEST_ID
from .workspace import Entry

SessionId = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]


class Snake(WireModel):
    """A request whose fields have the same names on the wire."""

    model_config = ConfigDict(alias_generator=None)


class ExecuteRequest(Snake):
    """A command line to run in a session, which is created if there is none; `timeout` is in seconds."""

    command: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    session_id: SessionId
    timeout: Annotated[int, Field(ge=1, le=86400)] = DEFAULT_S
    working_dir: Annotated[str, Field(max_length=LONGEST_DIRECTORY)] = "/workspace"


class SessionRequest(Snake):
    """A session to create."""

    session_id: SessionId


class ContentRequest(Snake):
    """The content of a file, as text."""

    content: str = ""


class Directory(Snake):
    """A directory, relative to the workspace, which is the default."""

    path: str = ""


class File(Snake):
    """A file or directory, relative to the workspace."""

    path: str = ""


class Target(Snake):
    """Where an uploaded file goes, relative to the workspace; by default it keeps its name."""

    path: str = ""


class CreatedSession(TypedDict):
    """A session that exists."""

    session_id: str
    container_id: str
    sandbox_id: str
    note: NotRequired[Annotated[str, Field(description="What was lost, if its machine had died.")]]


class DeletedSession(TypedDict):
    """A session that does not exist, whether or not it did."""

    status: Literal["deleted"]
    session_id: str


class SessionObject(TypedDict):
    """A session; one that is `snapshotted` sleeps."""

    session_id: str
    container_id: str
    sandbox_id: str
    status: Status
    created_at: Timestamp
    last_used_at: Timestamp
    reason: NotRequired[str]


class SessionList(TypedDict):
    """The caller's sessions, newest first."""

    sessions: list[SessionObject]


class Entries(TypedDict):
    """A directory's entries, by name."""

    entries: list[Entry]


class Uploaded(TypedDict):
    """A file that was uploaded: its absolute path, and its size in bytes."""

    path: str
    session_id: str
    size: int
