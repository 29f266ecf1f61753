"""A command's output, read from a stream of server-sent events."""

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
"""Requests output as raw bytes; servers that do not know the option send lines of text."""

_ENCODING = "x-casemate-encoding"

Output = tuple["Response", AsyncIterator["ServerSentEvent"]]
Sink = Callable[[str, bytes], Awaitable[None]]
"""Receives the name of the stream, `stdout` or `stderr`, and bytes from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended; `reason` explains the status or is empty, `network` has what its policy refused it."""

    exit_code: int
    reason: str
    network: str = ""


async def follow(output: Output, sink: Sink, started: Callable[[int], None] | None = None) -> Ended | None:
    """Pass on output until the command ends; return None if the stream ends first.

    Args:
        output: The stream.
        sink: Receives the command's output.
        started: Called with the pid that accepts input.

    Raises:
        CliError: The server sent no pid or no exit status.
    """
    response, events = output
    raw = response.headers.get(_ENCODING) == "base64"
    problem = ""
    async for event in events:
        if started is not None:
            started(_pid(event))
            started = None
        if event.event == "exit":
            ended = _ended(event.data)
            _report(problem if problem != ended.reason else "")
            return ended
        _report(problem)
        problem = event.data if event.event == "error" else ""
        if event.event in {"stdout", "stderr"}:
            await sink(event.event, base64.b64decode(event.data) if raw else f"{event.data}\n".encode())
    _report(problem)
    return None


def _report(problem: str) -> None:
    """Print an error event; the one that ended the stream is printed with the exit event instead."""
    if problem:
        note(f"casemate: {problem}")


def _pid(event: ServerSentEvent) -> int:
    try:
        pid = as_object(json.loads(event.data)).get("pid") if event.event == "start" else None
    except ValueError:
        pid = None
    if not isinstance(pid, int):
        raise CliError("The server sent no pid to send input to: does it run an older version of Casemate?")
    return pid


def _ended(text: str) -> Ended:
    try:
        fields = as_object(json.loads(text))
    except ValueError:
        fields = {}
    exit_code, reason = fields.get("exitCode"), str(fields.get("error") or "")
    if not isinstance(exit_code, int) or exit_code < 0:
        raise CliError(reason or "The server sent no exit status for the command")
    return Ended(exit_code=exit_code, reason=reason, network=str(fields.get("network") or ""))
