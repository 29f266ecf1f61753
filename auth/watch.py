"""Open streams and websockets, and their end when the credential behind them stops being good.

A call that is answered at once pays for an entry in a dictionary. What lasts longer than a second is looked at every
two, with one fresh check for all that share a credential; a change in this process is looked at when it is made.
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
    """One request or websocket while the application works on it.

    Attributes:
        verified: Who opened it.
        since_s: Since when, in monotonic seconds.
        cancel: Around the application.
        ended: Whether the credential stopped being good.
        begun: Whether an answer has begun, or the websocket is accepted.
        complete: Whether the answer is whole, or the websocket closed.
        events: Whether the answer is a stream of events, which may end anywhere.
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
        """What the application sends, until the stream is ended."""
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
        """Stop the application; a websocket is told why first."""
        if self.ended:
            return
        self.ended = True
        if self._kind == "websocket" and not self.complete:
            self.begun = self.complete = True
            try:
                with anyio.move_on_after(_CLOSE_S, shield=True):
                    await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ENDED})
            except Exception as error:
                # Of a socket whose client just left, and others wait for their end.
                _log.debug("websocket not closed", error=str(error))
        self.cancel.cancel()

    async def finish(self) -> None:
        """Complete a stream of events that was ended. Any other answer breaks off, for it is not whole."""
        if self._kind == "http" and self.events and self.begun and not self.complete:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class Watch:
    """Ends streams whose credential stopped being good: `run` does it."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        changes: Changes,
        clock: Clock = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is open yet.

        Args:
            authenticator: Says whether a credential is still good.
            changes: The same that keys and accounts tell.
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
        """How many requests and websockets are open."""
        return len(self._open)

    @contextmanager
    def opened(
        self, scope: Scope, send: Send, verified: Verified, headers: list[tuple[bytes, bytes]]
    ) -> Generator[Stream]:
        """Watch over a request for the length of a block.

        Args:
            scope: Of the request.
            send: Where its answer goes.
            verified: Who makes it.
            headers: To be added to the answer.
        """
        stream = Stream(scope, send, verified, headers, self._monotonic())
        self._open[id(stream)] = stream
        try:
            yield stream
        finally:
            del self._open[id(stream)]

    async def run(self, *, interval_s: float = INTERVAL_S) -> None:
        """Look after what is open; to be started in the server's task group.

        Args:
            interval_s: Seconds between two rounds, at most.
        """
        while True:
            await self.round()
            with anyio.move_on_after(self._pause_s(interval_s)):
                await self._news.wait()

    async def round(self) -> None:
        """Check each credential once that lasting streams rely on, and each that a change was told about."""
        changed, self._changed, self._news = self._changed, [], anyio.Event()
        lasting_s = self._monotonic() - LASTING_S
        by_credential: dict[Verified, list[Stream]] = {}
        for stream in self._open.values():
            if stream.since_s <= lasting_s or any(_concerns(change, stream.verified) for change in changed):
                by_credential.setdefault(stream.verified, []).append(stream)
        places = anyio.CapacityLimiter(_AT_ONCE)

        async def check(verified: Verified, streams: Iterable[Stream]) -> None:
            async with places:
                if await self._good(verified):
                    return
                for stream in streams:
                    await stream.end()

        async with anyio.create_task_group() as tasks:
            for verified, streams in by_credential.items():
                tasks.start_soon(check, verified, streams)

    async def _good(self, verified: Verified) -> bool:
        try:
            with anyio.fail_after(_CHECK_S):
                return await self._authenticator.good(verified)
        except (StoreError, TimeoutError) as error:
            # An outage of the store ends nothing: what cannot be known now is asked again in the next round.
            _log.warning("open streams not checked", error=str(error))
            return True

    def _pause_s(self, interval_s: float) -> float:
        """Seconds to the next round: sooner if a credential expires before."""
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
