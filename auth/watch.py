"""Termination of open streams and WebSockets when their credential expires or is revoked.

A short call costs one entry in a dictionary. Streams that last longer than a second are checked every two seconds, with
one uncached check for all streams of a credential; a change in this process triggers a check at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import structlog

from storage.errors import StoreError

from .authenticator import Authenticator, Verified
from .changes import Change, Changes
from .clock import Clock, now_ms
from .refusal import POLICY_VIOLATION

if TYPE_CHECKING:
    from starlette.types import Message, Scope, Send

INTERVAL_S = 2.0
LASTING_S = 1.0
ENDED = "the credential is no longer valid"
_CLOSE_S = 1.0
_CHECK_S = 5.0
_AT_ONCE = 8
_log = structlog.get_logger(__name__)


class Stream:
    """One request or WebSocket while the application handles it.

    Attributes:
        verified: The caller.
        since_s: When it was opened, in monotonic seconds.
        cancel: The cancel scope around the application.
        ended: Whether the credential was revoked or has expired.
        begun: Whether the answer has begun, or the WebSocket was accepted.
        complete: Whether the answer is complete, or the WebSocket is closed.
        events: Whether the answer is an event stream, which may end at any point.
    """

    __slots__ = (
        "_headers",
        "_kind",
        "_send",
        "begun",
        "cancel",
        "complete",
        "ended",
        "events",
        "since_s",
        "verified",
    )

    def __init__(
        self, scope: Scope, send: Send, verified: Verified, headers: list[tuple[bytes, bytes]], since_s: float
    ) -> None:
        self._kind: str = scope["type"]
        self._send = send
        self._headers = headers
        self.verified = verified
        self.since_s = since_s
        self.cancel = anyio.CancelScope()
        self.ended = self.begun = self.complete = self.events = False

    async def send(self, message: Message) -> None:
        """Forward what the application sends, until the stream is ended."""
        if self.ended:
            return
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.begun = True
                own: list[tuple[bytes, bytes]] = list(message.get("headers", []))
                self.events = any(
                    name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in own
                )
                message = {**message, "headers": [*own, *self._headers]}
            case "http.response.body" | "websocket.http.response.body":
                self.complete = not message.get("more_body", False)
            case "websocket.accept":
                self.begun = True
            case "websocket.close":
                self.complete = True
            case _:
                pass
        await self._send(message)

    async def end(self) -> None:
        """Stop the application; a WebSocket is closed with the reason first."""
        if self.ended:
            return
        self.ended = True
        if self._kind == "websocket" and not self.complete:
            self.begun = self.complete = True
            try:
                with anyio.move_on_after(_CLOSE_S, shield=True):
                    await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ENDED})
            except Exception as error:
                # The client may have just left; the other streams must still be ended.
                _log.debug("websocket not closed", error=str(error))
        self.cancel.cancel()

    async def finish(self) -> None:
        """Complete an event stream that was ended. Any other answer stays incomplete, so that clients notice."""
        if self._kind == "http" and self.events and self.begun and not self.complete:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class Watch:
    """Ends streams whose credential expired or was revoked, while `run` runs."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        changes: Changes,
        clock: Clock = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a watch over no streams.

        Args:
            authenticator: Checks whether a credential is still valid.
            changes: The same instance that keys and accounts publish to.
            clock: Epoch milliseconds.
            monotonic: Seconds, for the age of requests.
        """
        self._authenticator = authenticator
        self._clock = clock
        self._monotonic = monotonic
        self._open: dict[int, Stream] = {}
        self._changed: list[Change] = []
        self._news = anyio.Event()
        changes.subscribe(self._hear)

    def __len__(self) -> int:
        """Return the number of open requests and WebSockets."""
        return len(self._open)

    @contextmanager
    def opened(
        self, scope: Scope, send: Send, verified: Verified, headers: list[tuple[bytes, bytes]]
    ) -> Generator[Stream]:
        """Watch a request for the duration of a block.

        Args:
            scope: The ASGI scope of the request.
            send: Sends the answer.
            verified: The caller.
            headers: Headers to add to the answer.
        """
        stream = Stream(scope, send, verified, headers, self._monotonic())
        self._open[id(stream)] = stream
        try:
            yield stream
        finally:
            del self._open[id(stream)]

    async def run(self, *, interval_s: float = INTERVAL_S) -> None:
        """Check open streams until cancelled; start it in the server's task group.

        Args:
            interval_s: The longest time between two rounds, in seconds.
        """
        while True:
            await self.round()
            with anyio.move_on_after(self._pause_s(interval_s)):
                await self._news.wait()

    async def round(self) -> None:
        """Check the credentials of long streams, and those that a change concerns, each once."""
        changed, self._changed, self._news = self._changed, [], anyio.Event()
        lasting_s = self._monotonic() - LASTING_S
        by_credential: dict[Verified, list[Stream]] = {}
        for stream in self._open.values():
            if stream.since_s <= lasting_s or any(_concerns(change, stream.verified) for change in changed):
                by_credential.setdefault(stream.verified, []).append(stream)
        places = anyio.CapacityLimiter(_AT_ONCE)

        async def check(verified: Verified, streams: Iterable[Stream]) -> None:
            async with places:
                if await self._still_valid(verified):
                    return
                for stream in streams:
                    await stream.end()

        async with anyio.create_task_group() as tasks:
            for verified, streams in by_credential.items():
                tasks.start_soon(check, verified, streams)

    async def _still_valid(self, verified: Verified) -> bool:
        try:
            with anyio.fail_after(_CHECK_S):
                return await self._authenticator.still_valid(verified)
        except (StoreError, TimeoutError) as error:
            # An outage of the store must not end streams: the next round checks them again.
            _log.warning("open streams not checked", error=str(error))
            return True

    def _pause_s(self, interval_s: float) -> float:
        """Return the seconds until the next round: fewer if a credential expires earlier."""
        now = self._clock()
        ends = (stream.verified.expires_ms for stream in self._open.values() if stream.verified.expires_ms)
        next_ms = min((end for end in ends if end > now), default=now + int(interval_s * 1000))
        return max(0.0, min(interval_s, (next_ms - now) / 1000))

    def _hear(self, change: Change) -> None:
        self._changed.append(change)
        self._news.set()


def _concerns(change: Change, verified: Verified) -> bool:
    principal = verified.principal
    if principal.org_id != change.org_id:
        return False
    return principal.key_id == change.key_id if change.key_id else principal.user_id == change.user_id
