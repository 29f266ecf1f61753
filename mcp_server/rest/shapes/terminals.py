"""Types of terminals in answers."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from mcp_server.shapes import Timestamp


class SessionObject(TypedDict):
    """A terminal."""

    id: str
    createdAt: Timestamp
    clients: Annotated[int, Field(description="Number of sockets that show it.")]
    alive: bool
    command: str
    cols: int
    rows: int
    exitCode: NotRequired[int]


class NewSession(TypedDict):
    """A terminal that was opened."""

    sessionId: str
    createdAt: Timestamp


class SessionList(TypedDict):
    """The terminals of a sandbox."""

    sessions: list[SessionObject]


class BufferObject(TypedDict):
    """The kept output of a terminal."""

    success: Literal[True]
    output: str
