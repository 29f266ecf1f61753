"""The way of all sandboxes of a host to the network: each one's policy, and what it connected to."""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable, Generator
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
from .tcp import Connect, dial

log = structlog.get_logger(__name__)

_WAIT_MS = 25_000
_AGAIN_S = 0.5
_DNS = 53
MOST_CONNECTIONS = 256
"""Of one sandbox at once; its agent has 512, of which calls need some."""
MOST_QUERIES = 64
"""Of one sandbox at once."""
_SHOWN = 5


_NOTHING = Policy(mode=Mode.NONE)


class _Way:
    """One running sandbox's way out.

    Attributes:
        policy: What applies now; None, which allows nothing, until it is known.
        book: The names of the addresses that it was told.
        log: Where its connections are recorded.
        egress: Its connections.
        deciding: The connections and queries that are being served.
        queries: How many of these are queries.
    """

    def __init__(self, host: Callable[[], HostRules], book: AddressBook, log: NetworkLog, connect: Connect) -> None:
        self.policy: Policy | None = None
        self.book = book
        self.log = log
        self.egress = Egress(self.rules, self.book, log, connect, MOST_CONNECTIONS)
        self.deciding: set[int] = set()
        self.queries = 0
        self._host = host
        self._made: tuple[Policy, HostRules, Rules] | None = None

    @property
    def connections(self) -> int:
        """How many connections are being served."""
        return len(self.deciding) - self.queries

    def rules(self) -> Rules:
        """Return the policy together with the host's rules as they are now: its addresses may change at any time."""
        policy, host = self.policy or _NOTHING, self._host()
        if self._made is None or self._made[:2] != (policy, host):
            self._made = policy, host, Rules(policy, host)
        return self._made[2]


class Gateway:
    """Decides for all sandboxes of a host where they may connect to, and connects them.

    Attributes:
        default: The policy of sandboxes that name none.

    Args:
        default: The same.
        host: The operator's rules, asked for every decision.
        clock: Milliseconds since the epoch.
        resolver: Answers the sandboxes' DNS queries; by default one that asks the host's name servers.
        connect: Dials their destinations.
        limit: Connections of all sandboxes at once, each of which takes two files of the server; 0 is a quarter of the
            files that the server may open.
    """

    def __init__(
        self,
        *,
        default: Policy,
        host: Callable[[], HostRules],
        clock: Callable[[], int],
        resolver: Resolver | None = None,
        connect: Connect = dial,
        limit: int = 0,
    ) -> None:
        self.default = default
        self._host = host
        self._resolver = resolver or Resolver()
        self._connect = connect
        self._clock = clock
        self._logs: dict[str, NetworkLog] = {}
        self._books: dict[str, AddressBook] = {}
        self._ways: dict[str, _Way] = {}
        self._limit = limit or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._past = (0, 0)

    def policy(self, network: str) -> Policy:
        """Return the policy that a sandbox's record names; the default if it names none."""
        return Policy.parse(network) if network else self.default

    def check(self, network: str) -> None:
        """Refuse a policy that lists networks which stay denied on this host, whatever the policy says.

        Raises:
            InvalidInput: The message names them.
        """
        closed = Rules(self.policy(network), self._host()).closed()
        if closed:
            shown = ", ".join(str(block) for block in closed[:_SHOWN])
            raise InvalidInput(
                f"network must have no private addresses or addresses of the host, got {shown}",
                hint="The operator can open private networks: CASEMATE_NETWORK_OPEN",
            )

    def log(self, sandbox_id: str) -> NetworkLog:
        """Return a sandbox's recent destinations; the log begins when it is first asked for."""
        if sandbox_id not in self._logs:
            self._logs[sandbox_id] = NetworkLog(self._clock)
        return self._logs[sandbox_id]

    def counts(self) -> tuple[int, int]:
        """Count what was allowed and what was refused since the start, for deleted sandboxes, too."""
        allowed, refused = self._past
        logs = self._logs.values()
        return allowed + sum(log.allowed for log in logs), refused + sum(log.refused for log in logs)

    async def changed(self, sandbox_id: str, network: str) -> None:
        """Apply a sandbox's new policy text, to its open connections, too."""
        way = self._ways.get(sandbox_id)
        if way is not None:
            way.policy = self._understood(sandbox_id, network)
            way.egress.recheck()

    def forget(self, sandbox_id: str) -> None:
        """Drop what is known of a sandbox that was deleted."""
        self._books.pop(sandbox_id, None)
        log = self._logs.pop(sandbox_id, None)
        if log is not None:
            allowed, refused = self._past
            self._past = (allowed + log.allowed, refused + log.refused)

    async def serve(self, sandbox_id: str, network: Callable[[], Awaitable[str]], link: GuestLink) -> None:
        """Serve what leaves one sandbox until cancelled; open connections end with it.

        Args:
            sandbox_id: The sandbox.
            network: Reads its policy text.
            link: The link to its guest, whose connections may break at any time.
        """
        # What a guest was told before it slept it still knows afterwards.
        book = self._books.setdefault(sandbox_id, AddressBook())
        way = self._ways[sandbox_id] = _Way(self._host, book, self.log(sandbox_id), self._connect)
        try:
            found = self._understood(sandbox_id, await network())
            # A change that came while the record was read is newer.
            way.policy = way.policy or found
            async with anyio.create_task_group() as tasks:
                await self._poll(sandbox_id, way, link, tasks)
        finally:
            if self._ways.get(sandbox_id) is way:
                del self._ways[sandbox_id]

    async def _poll(self, sandbox_id: str, way: _Way, link: GuestLink, tasks: TaskGroup) -> None:
        again = True
        while True:
            began = anyio.current_time()
            try:
                events = await link.outbound(wait_ms=_WAIT_MS, again=again)
                again = False
            except GuestError as error:
                log.info("sandbox without a network", sandbox=sandbox_id, reason=error.message)
                return
            except InvalidInput:
                log.info("sandbox without a network", sandbox=sandbox_id, reason="it was made by an earlier release")
                return
            except LinkError:
                # Its calls tell its owner; connections that wait in the guest are served once it answers again.
                events, again = (), True
            for event in events:
                if event.id not in way.deciding:
                    await self._begin(way, link, event, tasks)
            if not events and anyio.current_time() - began < _AGAIN_S:
                await anyio.sleep(_AGAIN_S)

    async def _begin(
        self, way: _Way, link: GuestLink, event: OutboundConnection | OutboundQuery, tasks: TaskGroup
    ) -> None:
        """Start to serve one connection or query, or refuse it at once: before the next ones are asked for."""
        if isinstance(event, OutboundQuery):
            if way.queries < MOST_QUERIES:
                way.queries += 1
                way.deciding.add(event.id)
                tasks.start_soon(self._answer, way, link, event)
        elif way.connections < MOST_CONNECTIONS and sum(each.connections for each in self._ways.values()) < self._limit:
            way.deciding.add(event.id)
            tasks.start_soon(self._carry, way, link, event)
        else:
            reason = "limit: too many connections are open"
            way.log.record(allowed=False, protocol="tcp", host=str(event.address), port=event.port, reason=reason)
            with suppress(LinkError, GuestError):
                await link.refuse(event.id)

    async def _answer(self, way: _Way, link: GuestLink, event: OutboundQuery) -> None:
        try:
            with _contained():
                await link.answer(event.id, await self._resolver.answer(event.query, way.rules(), way.book, way.log))
        finally:
            way.queries -= 1
            way.deciding.discard(event.id)

    async def _carry(self, way: _Way, link: GuestLink, event: OutboundConnection) -> None:
        try:
            with _contained():
                if event.port == _DNS and way.rules().policy.mode is not Mode.NONE:
                    async with link.carry(event.id) as stream:
                        await self._resolver.serve(stream, way.rules, way.book, way.log)
                    return
                try:
                    await way.egress.run(event.address, event.port, lambda: link.carry(event.id))
                except EgressRefused:
                    await link.refuse(event.id)
        finally:
            way.deciding.discard(event.id)

    def _understood(self, sandbox_id: str, network: str) -> Policy:
        try:
            return self.policy(network)
        except InvalidInput as error:
            # A later release may have written it. What is not understood must not open anything.
            log.warning("network policy not understood, nothing is allowed", sandbox=sandbox_id, reason=error.message)
            return _NOTHING


@contextmanager
def _contained() -> Generator[None]:
    """Let one connection end without the others of its sandbox, whatever fails."""
    try:
        yield
    except (LinkError, GuestError, Conflict):
        return  # The guest, its connection or the program that made it has gone.
    except Exception:
        log.exception("connection of a sandbox not served")
