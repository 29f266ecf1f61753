"""Events of files on their way to a client, which may read them slowly: what does not fit is told as an overflow."""

from __future__ import annotations

import time

import anyio

from ..errors import CasemateError
from ..guest.watches import FileEvent

MOST_BYTES = 4 * 1024 * 1024
"""Memory of what a client may leave unread: some ten thousand events."""

_EVENT = 300
"""Bytes of an event without its paths."""
_SLOW = "the client reads too slowly: events were dropped"


class EventBuffer:
    """What one client has not read yet.

    Attributes:
        ended: Why there will be no more events; empty while there may be.
        failure: Why there will be no more events, if that is an error.

    Args:
        path: The watched path, of which an overflow is told.
    """

    def __init__(self, path: str) -> None:
        self.ended = ""
        self.failure: CasemateError | None = None
        self._path = path
        self._events: list[FileEvent] = []
        self._size = 0
        self._more = anyio.Event()

    def put(self, events: list[FileEvent]) -> None:
        """Add events; if there are too many, all of them give way to an overflow."""
        if self.ended:
            return
        self._events += events
        self._size += sum(_size(event) for event in events)
        if self._size > MOST_BYTES:
            self._events.clear()
            self._size = 0
            self.lose(_SLOW)
        self._more.set()

    def lose(self, reason: str) -> None:
        """Add that events are missing."""
        self.put([FileEvent(type="overflow", path=self._path, time_ms=time.time_ns() // 1_000_000, reason=reason)])

    def end(self, reason: str) -> None:
        """Let the client read what there is, and then know that there will be no more."""
        self.ended = self.ended or reason or "there is nothing to watch any more"
        self._more.set()

    def fail(self, error: CasemateError) -> None:
        """Let the client read what there is, and then know the error."""
        if not self.ended:
            self.failure = error
            self.end(error.message)

    async def take(self) -> list[FileEvent]:
        """Take all events, after waiting for one; none if there will be no more."""
        if not self._events and not self.ended:
            self._more = anyio.Event()
            await self._more.wait()
        events, self._events, self._size = self._events, [], 0
        return events


def _size(event: FileEvent) -> int:
    return _EVENT + len(event.path) + len(event.old_path)
