"""A command's output as it comes in a stream of events."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .console import CliError, note
from .values import Object, as_object

if TYPE_CHECKING:
    from httpx2 import Response, ServerSentEvent

BINARY: Object = {"binary": True}
"""Asks for the bytes as they are; a server that does not know it sends lines of text."""

_ENCODING = "x-casemate-encoding"

Output = tuple["Response", AsyncIterator["ServerSentEvent"]]
Sink = Callable[[str, bytes], Awaitable[None]]
"""Takes the name of the stream, `stdout` or `stderr`, and bytes of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended; `reason` is more than its status says, or nothing."""

    exit_code: int
    reason: str


async def follow(output: Output, sink: Sink, started: Callable[[int], None] | None = None) -> Ended | None:
    """Hand on what comes until the command ends; None if the stream ended before.

    Args:
        output: The stream.
        sink: Takes the command's output.
        started: Is told the pid to which input may be sent.

    Raises:
        CliError: The server lost the command.
    """
    response, events = output
    raw = response.headers.get(_ENCODING) == "base64"
    ailment = ""
    async for event in events:
        if started is not None:
            started(_pid(event))
            started = None
        if event.event == "exit":
            ended = _ended(event.data)
            _tell(ailment if ailment != ended.reason else "")
            return ended
        _tell(ailment)
        ailment = event.data if event.event == "error" else ""
        if event.event in {"stdout", "stderr"}:
            await sink(event.event, base64.b64decode(event.data) if raw else f"{event.data}\n".encode())
    _tell(ailment)
    return None


def _tell(ailment: str) -> None:
    """Say what was lost on the way; what ended the stream is said again with its end."""
    if ailment:
        note(f"casemate: {ailment}")


def _pid(event: ServerSentEvent) -> int:
    try:
        pid = as_object(json.loads(event.data)).get("pid") if event.event == "start" else None
    except ValueError:
        pid = None
    if not isinstance(pid, int):
        raise CliError("The server does not say how the command takes input: is it of an older version?")
    return pid


def _ended(text: str) -> Ended:
    try:
        said = as_object(json.loads(text))
    except ValueError:
        said = {}
    exit_code, reason = said.get("exitCode"), str(said.get("error") or "")
    if not isinstance(exit_code, int) or exit_code < 0:
        raise CliError(reason or "The server said nothing of the command's status")
    return Ended(exit_code=exit_code, reason=reason)
