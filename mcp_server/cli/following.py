"""A command's output as it comes in a stream of events."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .console import Trouble
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


async def follow(output: Output, sink: Sink) -> Ended | None:
    """Hand on what comes until the command ends; None if the stream ended before.

    Raises:
        Trouble: The server lost the command.
    """
    response, events = output
    raw = response.headers.get(_ENCODING) == "base64"
    async for event in events:
        match event.event:
            case "stdout" | "stderr":
                await sink(event.event, base64.b64decode(event.data) if raw else f"{event.data}\n".encode())
            case "exit":
                return _ended(event.data)
            case _:
                pass  # What `error` says comes with `exit` again; a server of a later version may say more.
    return None


def _ended(text: str) -> Ended:
    try:
        said = as_object(json.loads(text))
    except ValueError:
        said = {}
    exit_code, reason = said.get("exitCode"), str(said.get("error") or "")
    if not isinstance(exit_code, int) or exit_code < 0:
        raise Trouble(reason or "The server said nothing of the command's status")
    return Ended(exit_code=exit_code, reason=reason)
