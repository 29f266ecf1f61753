"""One running sandbox's way out: asks its guest what wants to leave, decides, and connects."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

import anyio
import structlog
from anyio.abc import TaskGroup

from ..errors import Conflict, GuestError, InvalidInput, LinkError
from ..guest.link import GuestLink
from ..guest.network import OutboundConnection, OutboundQuery
from .addresses import AddressBook
from .egress import Egress, EgressRefused
from .log import NetworkLog
from .policy import Mode, Policy
from .resolver import Resolver
from .rules import HostRules, Rules
from .tcp import Connect

log = structlog.get_logger(__name__)

MOST_CONNECTIONS = 256
"""Of one sandbox at once; its agent has 512, of which calls need some."""
MOST_QUERIES = 64
"""Of one sandbox at once."""
NOTHING = Policy(mode=Mode.NONE)

_WAIT_MS = 25_000
_AGAIN_S = 0.5
_DNS = 53


class Way:
    """One running sandbox's way out.

    Attributes:
        policy: What applies now; None, which allows nothing, until it is known.
        egress: Its connections to the world.
        connections: Those that are being served, by the guest's number.
        queries: Likewise.

    Args:
        link: The link to its guest, whose connections may break at any time.
        host: The operator's rules, asked for every decision.
        book: The names of the addresses that it was told.
        events: Where its connections are recorded.
        resolver: Answers its queries.
        connect: Dials its destinations.
        room: Whether the host has room for one more connection.
    """

    def __init__(
        self,
        link: GuestLink,
        *,
        host: Callable[[], HostRules],
        book: AddressBook,
        events: NetworkLog,
        resolver: Resolver,
        connect: Connect,
        room: Callable[[], bool],
    ) -> None:
        self.policy: Policy | None = None
        self.egress = Egress(self.rules, book, events, connect, MOST_CONNECTIONS)
        self.connections: set[int] = set()
        self.queries: set[int] = set()
        self._link = link
        self._host = host
        self._book = book
        self._events = events
        self._resolver = resolver
        self._room = room
        self._made: tuple[Policy, HostRules, Rules] | None = None

    def rules(self) -> Rules:
        """Return the policy together with the host's rules as they are now: its addresses may change at any time."""
        policy, host = self.policy or NOTHING, self._host()
        if self._made is None or self._made[:2] != (policy, host):
            self._made = policy, host, Rules(policy, host)
        return self._made[2]

    async def serve(self) -> None:
        """Serve what leaves the sandbox until cancelled; returns at once if its guest has no network."""
        async with anyio.create_task_group() as tasks:
            again = True
            while True:
                began = anyio.current_time()
                try:
                    waiting = await self._link.outbound(wait_ms=_WAIT_MS, again=again)
                    again = False
                except GuestError as error:
                    log.info("sandbox without a network", reason=error.message)
                    return
                except InvalidInput:
                    log.info("sandbox without a network", reason="it was made by an earlier release")
                    return
                except LinkError:
                    # Its calls tell its owner; what waits in the guest is served once it answers again.
                    waiting, again = (), True
                for event in waiting:
                    await self._begin(event, tasks)
                if not waiting and anyio.current_time() - began < _AGAIN_S:
                    await anyio.sleep(_AGAIN_S)

    async def _begin(self, event: OutboundConnection | OutboundQuery, tasks: TaskGroup) -> None:
        """Start to serve one connection or query, or refuse it at once: before the next ones are asked for."""
        if event.id in self.connections | self.queries:
            return
        if isinstance(event, OutboundQuery):
            if len(self.queries) < MOST_QUERIES:
                self.queries.add(event.id)
                tasks.start_soon(self._answer, event)
        elif len(self.connections) < MOST_CONNECTIONS and self._room():
            self.connections.add(event.id)
            tasks.start_soon(self._carry, event)
        else:
            reason = "limit: too many connections are open"
            self._events.record(allowed=False, protocol="tcp", host=str(event.address), port=event.port, reason=reason)
            with suppress(LinkError, GuestError):  # as below: its guest or program has gone
                await self._link.refuse(event.id)

    async def _answer(self, event: OutboundQuery) -> None:
        try:
            with _contained():
                reply = await self._resolver.answer(event.query, self.rules(), self._book, self._events)
                await self._link.answer(event.id, reply)
        finally:
            self.queries.discard(event.id)

    async def _carry(self, event: OutboundConnection) -> None:
        try:
            with _contained():
                if event.port == _DNS and self.rules().policy.mode is not Mode.NONE:
                    async with self._link.carry(event.id) as stream:
                        await self._resolver.serve(stream, self.rules, self._book, self._events)
                    return
                try:
                    await self.egress.run(event.address, event.port, lambda: self._link.carry(event.id))
                except EgressRefused:
                    await self._link.refuse(event.id)
        finally:
            self.connections.discard(event.id)


@contextmanager
def _contained() -> Generator[None]:
    """Let one connection end without the others of its sandbox, whatever fails."""
    try:
        yield
    except (LinkError, GuestError, Conflict):
        return  # The guest, its connection or the program that made it has gone.
    except Exception:
        log.exception("connection of a sandbox not served")
