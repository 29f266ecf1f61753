"""The way out by the guest link: asks the guest what wants to leave, decides, and connects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import structlog
from anyio.abc import TaskGroup

from ..errors import GuestError, InvalidInput, LinkError
from ..guest.link import GuestLink
from ..guest.network import OutboundConnection, OutboundQuery
from .egress import EgressRefused
from .policy import Policy
from .way import Way, contained

log = structlog.get_logger(__name__)

_WAIT_MS = 25_000
_AGAIN_S = 0.5
_REFUSALS = 16
"""That one guest is told of at once: each is a call of its own, and none holds back what may be served meanwhile."""


class LinkWay:
    """The way of a sandbox whose agent catches what its programs connect to.

    Attributes:
        way: What applies to it.

    Args:
        way: The same.
        link: The link to its guest, whose connections may break at any time.
    """

    def __init__(self, way: Way, link: GuestLink) -> None:
        self.way = way
        self._link = link
        self._refusals = anyio.Semaphore(_REFUSALS)
        self._refused: set[int] = set()

    async def apply(self, policy: Policy) -> None:
        """Let a policy apply, to open connections, too."""
        self.way.become(policy)

    async def serve(self, policy: Callable[[], Awaitable[Policy]], in_force: Callable[[], None]) -> None:
        """Serve what leaves the sandbox until cancelled; returns at once if its guest has no network.

        Args:
            policy: Finds the policy that applies at first.
            in_force: Called at once: until a policy applies, what leaves the sandbox waits in it.
        """
        in_force()
        found = await policy()
        # A change that came while the record was read is newer.
        self.way.policy = self.way.policy or found
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
        """Start to serve one connection or query, or to refuse it; waits while the guest is slow to take refusals."""
        if event.id in self.way.connections | self.way.queries | self._refused:
            return
        if isinstance(event, OutboundQuery):
            if self.way.has_room_for_query():
                self.way.queries.add(event.id)
                tasks.start_soon(self._answer, event)
        elif self.way.has_room(event.address, event.port):
            self.way.connections.add(event.id)
            tasks.start_soon(self._carry, event)
        else:
            await self._refusals.acquire()
            self._refused.add(event.id)
            tasks.start_soon(self._refuse, event)

    async def _refuse(self, event: OutboundConnection) -> None:
        try:
            with suppress(LinkError, GuestError):  # its guest or program has gone
                await self._link.refuse(event.id)
        finally:
            self._refused.discard(event.id)
            self._refusals.release()

    async def _answer(self, event: OutboundQuery) -> None:
        try:
            with contained():
                await self._link.answer(event.id, await self.way.answer(event.query))
        finally:
            self.way.queries.discard(event.id)

    async def _carry(self, event: OutboundConnection) -> None:
        try:
            with contained():
                try:
                    await self.way.carry(event.address, event.port, lambda: self._link.carry(event.id))
                except EgressRefused:
                    await self._link.refuse(event.id)
        finally:
            self.way.connections.discard(event.id)
