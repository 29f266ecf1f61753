"""One sandbox's way out: decides about each connection of its programs, dials the destination, and relays."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import anyio
import structlog
from anyio.abc import ByteStream

from ..errors import Conflict
from .addresses import AddressBook
from .announced import Unnamed
from .log import NetworkLog
from .name_check import NameCheck
from .reach import EgressRefused, Unreachable, reach
from .relay import relay
from .rules import WEB_PORTS, Rules, Verdict
from .tcp import Connect, dial, reset

log = structlog.get_logger(__name__)

DIAL_S = 10.0
"""Seconds that a destination may take to accept a connection."""
NAME_S = 10.0
"""Seconds that a program may take to announce a name, where its policy needs one."""
MOST_OPEN = 512
"""Connections of one sandbox at once: each takes two sockets of the server."""

_NOT_JUDGED = Verdict(allowed=False, reason="error: the server cannot tell whether it is allowed")


@dataclass(eq=False, slots=True, kw_only=True)
class _Open:
    """A connection that is open, or on its way to be.

    Attributes:
        scope: Around all that is done for it.
        check: Of the names it announces; None: its policy needed none.
        host: What the log calls its destination since that was dialled.
        ended: The reason of a later policy for which it ends.
    """

    address: IPv4Address
    port: int
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    check: NameCheck | None = None
    host: str = ""
    ended: str = ""


class Egress:
    """Connects one sandbox's programs to where its policy allows.

    Args:
        rules: Gives the rules that apply now.
        book: The names of the addresses that the sandbox was told.
        log: Where each connection is recorded.
        connect: Dials.
        limit: Connections at once.
        dial_s: Seconds that a destination may take to accept.
        name_s: Seconds that a program may take to announce a name.
    """

    def __init__(
        self,
        rules: Callable[[], Rules],
        book: AddressBook,
        log: NetworkLog,
        connect: Connect = dial,
        limit: int = MOST_OPEN,
        *,
        dial_s: float = DIAL_S,
        name_s: float = NAME_S,
    ) -> None:
        self._rules = rules
        self._book = book
        self._log = log
        self._connect = connect
        self._limit = limit
        self._dial_s = dial_s
        self._name_s = name_s
        self._open: set[_Open] = set()

    def __len__(self) -> int:
        """Count the connections that are open."""
        return len(self._open)

    async def run(
        self, address: IPv4Address, port: int, take: Callable[[], AbstractAsyncContextManager[ByteStream]]
    ) -> None:
        """Carry one connection until it ends.

        The verdict comes first. Where the name must be seen (ports 80 and 443), the guest's end is taken before
        anything is dialled; everywhere else the destination has accepted before it is taken, as the server may be the
        one that speaks first.

        Args:
            address: Its original destination.
            port: The TCP port there.
            take: Opens the guest's end; leaving it early resets that. Conflict: the program has closed it already.

        Raises:
            EgressRefused: It is not allowed, or no longer; its destination does not accept it; or there are too many.
        """
        verdict = self._verdict(address, port)
        if not verdict.allowed:
            raise self._refused(address, port, verdict.reason)
        if len(self._open) >= self._limit:
            raise self._refused(address, port, f"limit: {self._limit} connections of this sandbox are open")
        way = _Open(address=address, port=port)
        self._open.add(way)
        try:
            with self._book.held(address), way.scope:
                if verdict.by_name and port in WEB_PORTS:
                    await self._by_name(way, take)
                else:
                    await self._by_address(way, take, named=verdict.by_name)
        finally:
            self._open.discard(way)
        if way.ended:
            raise EgressRefused(way.ended)

    def recheck(self) -> int:
        """End the open connections that the rules do not allow now; how many."""
        ended = 0
        for way in tuple(self._open):
            verdict = self._judged(way)
            if not verdict.allowed and not way.ended:
                way.ended = verdict.reason
                way.scope.cancel()
                self._refused(way.address, way.port, verdict.reason, way.check.names if way.check else ())
                ended += 1
        return ended

    def _judged(self, way: _Open) -> Verdict:
        """Decide about an open connection as if it were new."""
        verdict = self._verdict(way.address, way.port)
        if not verdict.allowed or not verdict.by_name:
            return verdict
        if way.check is None:
            # Elsewhere it may well be of a protocol without names.
            return self._name_verdict(None, way.port) if way.port in WEB_PORTS else verdict
        # One that has announced nothing yet is decided about once it does.
        verdicts = (self._name_verdict(name, way.port) for name in way.check.names)
        return next((found for found in verdicts if not found.allowed), verdict)

    async def _by_address(
        self, way: _Open, take: Callable[[], AbstractAsyncContextManager[ByteStream]], *, named: bool
    ) -> None:
        if named:
            way.check = NameCheck(lambda name: self._announced(way, name), needed=False)
        world = await self._dialled(way, self._known(way.address))
        try:
            async with take() as guest:
                await relay(guest, world, outgoing=way.check.feed if way.check else None)
        except Conflict:
            return
        except Unnamed as error:
            raise self._unnamed(way, error) from error
        finally:
            await anyio.aclose_forcefully(world)

    async def _by_name(self, way: _Open, take: Callable[[], AbstractAsyncContextManager[ByteStream]]) -> None:
        way.check = NameCheck(lambda name: self._announced(way, name))
        try:
            async with take() as guest:
                try:
                    first = await way.check.first(guest, within_s=self._name_s)
                    if not first:
                        return
                    world = await self._dialled(way, way.check.names)
                except BaseException:
                    await reset(guest)
                    raise
                try:
                    await relay(guest, world, first=first, outgoing=way.check.feed)
                finally:
                    await anyio.aclose_forcefully(world)
        except Conflict:
            return
        except Unnamed as error:
            raise self._unnamed(way, error) from error

    async def _dialled(self, way: _Open, names: Collection[str]) -> ByteStream:
        """Dial, and record whether that worked."""
        try:
            world = await reach(self._connect, way.address, way.port, within_s=self._dial_s)
        except Unreachable as error:
            self._record(way.address, way.port, names, error.reason)
            raise
        way.host = self._record(way.address, way.port, names)
        return world

    def _announced(self, way: _Open, name: str) -> None:
        """Decide about a name that a connection announces."""
        verdict = self._name_verdict(name, way.port)
        if not verdict.allowed:
            raise self._refused(way.address, way.port, verdict.reason, (name,))
        if way.host and name != way.host:  # before, it is recorded when its destination was dialled
            self._record(way.address, way.port, (name,))

    def _verdict(self, address: IPv4Address, port: int) -> Verdict:
        return self._safely(lambda: self._rules().connection(address, port, self._book.names(address)))

    def _name_verdict(self, name: str | None, port: int) -> Verdict:
        return self._safely(lambda: self._rules().announced(name, port))

    def _safely(self, judge: Callable[[], Verdict]) -> Verdict:
        """Refuse what cannot be judged: an error must not leave this connection, or those after it, open."""
        try:
            return judge()
        except Exception:
            log.exception("connection not judged")
            return _NOT_JUDGED

    def _known(self, address: IPv4Address) -> list[str]:
        """Return the names by which the rules allow an address."""
        rules = self._rules()
        return sorted(name for name in self._book.names(address) if rules.name(name).allowed)

    def _record(self, address: IPv4Address, port: int, names: Collection[str], reason: str = "") -> str:
        host = min(names, default=str(address))
        self._log.record(allowed=True, protocol="tcp", host=host, port=port, reason=reason)
        return host

    def _unnamed(self, way: _Open, error: Unnamed) -> EgressRefused:
        needs = self._name_verdict(None, way.port).reason or "the policy, which needed a name in Host or SNI"
        names = way.check.names if way.check else ()
        return self._refused(way.address, way.port, f"{needs}: it sent {error}", names)

    def _refused(self, address: IPv4Address, port: int, reason: str, names: Collection[str] = ()) -> EgressRefused:
        """Record a refusal, and make the error that says so."""
        host = min(names, default="") or min(self._book.names(address), default=str(address))
        self._log.record(allowed=False, protocol="tcp", host=host, port=port, reason=reason)
        return EgressRefused(reason)
