"""The link's call that follows what happens to files."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from vmm.agent import frames
from vmm.errors import LinkError

from . import checks
from .caller import Caller, Stream

EVENT_TYPES = frozenset(("created", "modified", "deleted", "renamed", "chmod", "overflow", "unmounted"))

_BEAT_S = 15.0
"""Interval of the agent's signs of life while nothing happens."""
_MOST_REASON = 500
_MOST_NUMBER = 2**53
"""The largest integer of JavaScript, which most clients read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvent:
    """Something that happened to a file or directory.

    Attributes:
        type: One of EVENT_TYPES. `overflow`: events below the path are missing, so that it should be read again.
        path: The path, which is below the watched one as that was given.
        old_path: The path until now, if it was renamed.
        directory: Whether it is a directory.
        size: Bytes of a file that was created or modified; None if it is gone again.
        time_ms: When the agent noticed, milliseconds since the epoch.
        reason: Why, for `overflow` and the end of the watched path itself.
    """

    type: str
    path: str
    old_path: str = ""
    directory: bool = False
    size: int | None = None
    time_ms: int
    reason: str = ""


class WatchCalls(Caller):
    """Follow files in the guest."""

    @asynccontextmanager
    async def watch(self, path: str, *, recursive: bool, ignore_hidden: bool) -> AsyncGenerator[FileEvents]:
        """Follow what happens at a path until the block is left; when it begins, nothing is missed any more.

        Args:
            path: A directory or a file.
            recursive: Whether to follow directories below it, new ones included.
            ignore_hidden: Whether to leave out names that begin with a dot, and what is in such directories.

        Raises:
            InvalidInput: The path is relative or invalid, or the agent is too old.
            GuestFileMissing: It does not exist.
            GuestError: The sandbox's watches have reached a limit; the message names it.
        """
        async with self._stream(
            "watch", own_s=_BEAT_S, path=checks.path(path), recursive=recursive, ignore_hidden=ignore_hidden
        ) as answer:
            frame = await answer.receive()
            if frame is None or frame[0] != frames.HEAD:
                raise LinkError("The guest's answer does not say that it watches")
            yield FileEvents(answer)


class FileEvents:
    """The events as they arrive, those that happened together in one piece; ends if there is nothing to watch."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def reason(self) -> str:
        """Why there is nothing to watch any more; only at the end."""
        return str(self._stream.result.get("reason", ""))[:_MOST_REASON].encode(errors="replace").decode()

    def __aiter__(self) -> FileEvents:
        return self

    async def __anext__(self) -> list[FileEvent]:
        """Receive the next events.

        Raises:
            LinkError: The connection broke, or the guest's events are damaged.
        """
        while (frame := await self._stream.receive()) is not None:
            kind, payload = frame
            if kind != frames.DATA:
                raise LinkError(f"The guest sent a frame of kind {kind} instead of events")
            if payload:
                return [_event(line) for line in payload.splitlines()]
        raise StopAsyncIteration


def _event(line: bytes) -> FileEvent:
    try:
        value = cast("dict[str, Any]", json.loads(line))
        size = value.get("size")
        return FileEvent(
            type=_known_type(value["type"]),
            path=_text(value["path"]),
            old_path=_text(value.get("old_path", "")),
            directory=value.get("directory") is True,
            size=None if size is None else _number(size),
            time_ms=_number(value["time_ms"]),
            reason=_text(value.get("reason", ""))[:_MOST_REASON],
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise LinkError("The guest's event about a file is damaged") from error


def _known_type(value: object) -> str:
    if value not in EVENT_TYPES:
        raise ValueError(value)
    return _text(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    value.encode()  # JSON can have halves of characters, which no text may have.
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MOST_NUMBER:
        raise ValueError(value)
    return value
