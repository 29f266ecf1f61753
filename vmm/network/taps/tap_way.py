"""The way out by a tap: the kernel forwards what it may, and the rest of the sandbox's TCP and its DNS come here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from itertools import count

import anyio
from anyio.abc import ByteStream, TaskGroup

from ..egress import EgressRefused
from ..policy import Mode, Policy
from ..rules import Rules
from ..tcp import TcpStream, reset
from ..way import NOTHING, TOO_MANY, Way, contained
from .fast_path import CLOSED, FastPath
from .kernel_log import ALLOWED, LIMITED, KernelEvent
from .tap_ways import TapWays

_CUT = "cut off by a change of the policy: connect again"
_LATE = "refused by the policy at that moment: try again"


class TapWay:
    """The way of a sandbox whose own network device has a tap.

    Attributes:
        way: What applies to it.
        address: The sandbox's.

    Args:
        way: The same.
        address: The same.
        ways: Those of all sandboxes with a tap.
    """

    def __init__(self, way: Way, address: IPv4Address, ways: TapWays) -> None:
        self.way = way
        self.address = address
        self._ways = ways
        self._numbers = count(1)
        self._changes = anyio.Lock()
        self._known = anyio.Event()
        self._tasks: TaskGroup | None = None

    async def apply(self, policy: Policy) -> None:
        """Let a policy apply, in the kernel and here, to open connections, too.

        Raises:
            Unavailable: The kernel did not take it; the policy before it applies.
        """
        async with self._changes:
            await self._apply(policy)

    async def serve(self, policy: Callable[[], Awaitable[Policy]], in_force: Callable[[], None]) -> None:
        """Serve what leaves the sandbox until cancelled.

        Args:
            policy: Finds the policy that applies at first.
            in_force: Called once it applies, in the kernel, too.

        Raises:
            Unavailable: The kernel did not take it; call again.
        """
        try:
            async with anyio.create_task_group() as self._tasks:
                self._ways.add(self)
                found = await policy()
                async with self._changes:
                    # A change that came while the record was read is newer.
                    await self._apply(self.way.policy or found)
                in_force()
                await anyio.sleep_forever()
        finally:
            self._tasks = None
            with anyio.CancelScope(shield=True):
                await self._ways.remove(self)

    async def connected(self, stream: TcpStream, address: IPv4Address, port: int) -> None:
        """Begin to serve a connection, or reset it.

        Args:
            stream: The sandbox's end of it.
            address: Where it was to go.
            port: The TCP port there.
        """
        if self._tasks is None or not self.way.has_room(address, port):
            await reset(stream)
            return
        number = next(self._numbers)
        self.way.connections.add(number)
        self._tasks.start_soon(self._carry, number, stream, address, port)

    def asked(self, query: bytes, reply: Callable[[bytes], None]) -> None:
        """Begin to answer a DNS query; what is too much is dropped.

        Args:
            query: The message.
            reply: Sends the answer, unless the sandbox has gone meanwhile.
        """
        if self._tasks is not None and self.way.has_room_for_query():
            number = next(self._numbers)
            self.way.queries.add(number)
            self._tasks.start_soon(self._answer, number, query, reply)

    def noticed(self, event: KernelEvent) -> None:
        """Record what the kernel forwarded or refused."""
        allowed = event.prefix == ALLOWED
        rules, names = self.way.rules(), self.way.book.names(event.destination)
        known = {name for name in names if not allowed or rules.name(name).allowed}
        self.way.events.record(
            allowed=allowed,
            protocol=event.protocol,
            host=min(known, default=str(event.destination)),
            port=event.port,
            reason="" if allowed else self._reason(event),
            address=event.destination,
        )

    def _reason(self, event: KernelEvent) -> str:
        """Tell why the kernel refused something, which knows only that it is not to be forwarded."""
        if event.prefix == LIMITED:
            return TOO_MANY
        rules, names = self.way.rules(), self.way.book.names(event.destination)
        if event.protocol == "tcp":
            verdict = rules.connection(event.destination, event.port, names)
        else:
            verdict = rules.packet(event.destination, names)
        if not verdict.allowed:
            return verdict.reason
        # TCP that the kernel had not forwarded before would have come here.
        return _CUT if event.protocol == "tcp" else _LATE

    async def _apply(self, policy: Policy) -> None:
        fast, before = (_fast_path(self.way.rules_of(found)) for found in (policy, self.way.policy or NOTHING))
        # The kernel first: it may fail. Until then, and for what comes meanwhile, the earlier policy applies.
        await self._ways.allow(self, fast, before=before)
        self.way.become(policy)
        self._known.set()

    async def _carry(self, number: int, stream: TcpStream, address: IPv4Address, port: int) -> None:
        try:
            with contained(), suppress(EgressRefused):
                await self._known.wait()
                await self.way.carry(address, port, lambda: _taken(stream))
        finally:
            self.way.connections.discard(number)
            await reset(stream)  # a no-op for what has ended

    async def _answer(self, number: int, query: bytes, reply: Callable[[bytes], None]) -> None:
        try:
            with contained():
                await self._known.wait()
                reply(await self.way.answer(query))
        finally:
            self.way.queries.discard(number)


def _fast_path(rules: Rules) -> FastPath:
    """Return what of these rules the kernel can apply: what no name decides about."""
    # What `learn` reaches is to be known by its name, which only connections through the server are.
    if rules.policy.mode is Mode.INTERNET:
        return FastPath(internet=True)
    return FastPath(networks=rules.networks, ports=rules.policy.ports) if rules.networks else CLOSED


@asynccontextmanager
async def _taken(stream: TcpStream) -> AsyncGenerator[ByteStream]:
    """Give the sandbox's end, and close it after the block; what ended the block early resets it."""
    yield stream
    await stream.aclose()
