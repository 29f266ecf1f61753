"""One running sandbox's way out, however its packets come here: what it may reach, and how much of it at once."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from ipaddress import IPv4Address

import structlog
from anyio.abc import ByteStream

from ..errors import Conflict, GuestError, LinkError
from .addresses import AddressBook
from .egress import Egress
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
TOO_MANY = "limit: too many connections are open"
NOTHING = Policy(mode=Mode.NONE)

_DNS = 53


class Way:
    """One running sandbox's way out.

    Attributes:
        policy: What applies now; None, which allows nothing, until it is known.
        egress: Its connections to the world.
        connections: Those that are being served, by a number of each.
        queries: Likewise.
        book: The names of the addresses that it was told.
        events: Where its connections are recorded.

    Args:
        host: The operator's rules, asked for every decision.
        book: The same.
        events: The same.
        resolver: Answers its queries.
        connect: Dials its destinations.
        room: Whether the host has room for one more connection.
    """

    def __init__(
        self,
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
        self.book = book
        self.events = events
        self._host = host
        self._resolver = resolver
        self._room = room
        self._made: tuple[Policy, HostRules, Rules] | None = None

    def rules(self) -> Rules:
        """Return the policy together with the host's rules as they are now: its addresses may change at any time."""
        return self.rules_of(self.policy or NOTHING)

    def rules_of(self, policy: Policy) -> Rules:
        """Return what another policy would mean."""
        host = self._host()
        if self._made is None or self._made[:2] != (policy, host):
            self._made = policy, host, Rules(policy, host)
        return self._made[2]

    def become(self, policy: Policy) -> None:
        """Let a policy apply, to open connections, too."""
        self.policy = policy
        self.egress.recheck()

    def has_room(self, address: IPv4Address, port: int) -> bool:
        """Tell whether one more connection may be served, and record it as refused if not."""
        if len(self.connections) < MOST_CONNECTIONS and self._room():
            return True
        self.events.record(allowed=False, protocol="tcp", host=str(address), port=port, reason=TOO_MANY)
        return False

    def has_room_for_query(self) -> bool:
        """Tell whether one more query may be served; programs ask again what nobody answers."""
        return len(self.queries) < MOST_QUERIES

    async def answer(self, query: bytes) -> bytes:
        """Answer one DNS query."""
        return await self._resolver.answer(query, self.rules(), self.book, self.events)

    async def carry(
        self, address: IPv4Address, port: int, take: Callable[[], AbstractAsyncContextManager[ByteStream]]
    ) -> None:
        """Carry one connection until it ends; a query over TCP is answered here, whatever server it is for.

        Args:
            address: Its original destination.
            port: The TCP port there.
            take: Opens the guest's end; see `Egress.run`.

        Raises:
            EgressRefused: The guest's end is to be reset.
        """
        if port == _DNS and self.rules().policy.mode is not Mode.NONE:
            async with take() as stream:
                await self._resolver.serve(stream, self.rules, self.book, self.events)
        else:
            await self.egress.run(address, port, take)


@contextmanager
def contained() -> Generator[None]:
    """Let one connection end without the others of its sandbox, whatever fails."""
    try:
        yield
    except (LinkError, GuestError, Conflict):
        return  # The guest, its connection or the program that made it has gone.
    except Exception:
        log.exception("connection of a sandbox not served")
