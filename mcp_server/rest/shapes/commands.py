"""Types of commands and their outcomes in answers."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from mcp_server.shapes import Timestamp


class OutcomeDetails(TypedDict, total=False):
    """What only some outcomes have."""

    timedOut: bool
    truncated: Annotated[bool, Field(description="Whether a part of the output was left out.")]
    outOfMemory: bool
    network: Annotated[str, Field(description="What the sandbox's policy refused meanwhile.")]


class OutcomeFields(OutcomeDetails):
    """A command that has ended, without its output."""

    exitCode: int


class OutcomeObject(OutcomeFields):
    """A command that has ended."""

    stdout: str
    stderr: str


class Event(TypedDict):
    """A server-sent event of a command."""

    event: Literal["start", "stdout", "stderr", "error", "exit"]
    data: str


class SessionDetails(TypedDict, total=False):
    """What only some actions on a session answer."""

    sessionId: str
    output: Annotated[str, Field(description="What the command printed, on both of its outputs.")]
    exitCode: int | None
    error: Annotated[str, Field(description="Why the command or its session was ended.")]
    timedOut: bool
    truncated: bool
    network: str


class SessionAnswer(SessionDetails):
    """An action on a session that was done."""

    success: Literal[True]


class SessionEvent(TypedDict):
    """A line of a command's output in a session."""

    type: Literal["stdout", "error", "exit"]
    data: NotRequired[str]
    exitCode: NotRequired[int | None]
    error: NotRequired[str]


class ProcessObject(TypedDict):
    """A background command."""

    pid: int
    command: str
    startTime: Timestamp
    running: bool
    exitCode: NotRequired[int]


class ProcessList(TypedDict):
    """The background commands."""

    success: Literal[True]
    processes: list[ProcessObject]


class Started(TypedDict):
    """A background command that was started."""

    success: Literal[True]
    pid: int
    command: str


class Fed(TypedDict):
    """What a command took of its input."""

    success: Literal[True]
    bytes: int
    open: Annotated[bool, Field(description="Whether the command accepts more input.")]


class Signalled(TypedDict):
    """A background command that was signalled."""

    success: Literal[True]
    message: str


class Waited(TypedDict):
    """A background command that has ended."""

    success: Literal[True]
    exitCode: int
    error: NotRequired[Annotated[str, Field(description="Why it was killed.")]]
