"""A relay to an agent that loses connections, as real networks do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from enum import Enum, auto

import anyio
from anyio.abc import SocketAttribute, SocketStream

from tests.vmm.guest.agents import Agent
from vmm.guest.link import GuestLink


class Fate(Enum):
    """What happens to a connection."""

    PASSED = auto()
    """It reaches the agent."""
    LOST = auto()
    """It is accepted, but never answered."""
    HUNG_UP = auto()
    """It is closed before any data was sent."""


class Relay:
    """Stands between a link and an agent.

    Attributes:
        fate: Decides what happens to a connection, by its number (from 0).
        open: Nothing is passed before this is set.
        seen: How many connections there were.
        lost_bytes: Bytes that arrived on lost connections.
        most: How many connections waited for the agent's greeting at once.
    """

    def __init__(self, agent: Agent, fate: Callable[[int], Fate]) -> None:
        self.fate = fate
        self.open = anyio.Event()
        self.seen = 0
        self.lost_bytes = 0
        self.most = 0
        self._waiting = 0
        self.port = 0
        self._agent = agent

    def link(self) -> GuestLink:
        return GuestLink(self.dial, self._agent.secret)

    async def dial(self) -> SocketStream:
        return await anyio.connect_tcp("127.0.0.1", self.port)

    async def handle(self, stream: SocketStream) -> None:
        fate = self.fate(self.seen)
        self.seen += 1
        async with stream:
            if fate is Fate.PASSED:
                self._waiting += 1
                self.most = max(self.most, self._waiting)
                await self.open.wait()
                await self._pass(stream)
            elif fate is Fate.LOST:
                await self._lose(stream)

    async def _pass(self, stream: SocketStream) -> None:
        async with await anyio.connect_tcp("127.0.0.1", self._agent.port) as agent, anyio.create_task_group() as ways:
            greeting = await agent.receive()
            self._waiting -= 1
            await stream.send(greeting)

            async def carry(source: SocketStream, target: SocketStream) -> None:
                try:
                    async for piece in source:
                        await target.send(piece)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                ways.cancel_scope.cancel()

            ways.start_soon(carry, stream, agent)
            ways.start_soon(carry, agent, stream)

    async def _lose(self, stream: SocketStream) -> None:
        try:
            async for piece in stream:
                self.lost_bytes += len(piece)
        except anyio.BrokenResourceError:
            return


@asynccontextmanager
async def relay(agent: Agent, fate: Callable[[int], Fate] = lambda _: Fate.PASSED) -> AsyncGenerator[Relay]:
    """Run a relay during a block; it forwards at once, unless its `open` is replaced."""
    between = Relay(agent, fate)
    between.open.set()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    between.port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, between.handle)
        yield between
        tasks.cancel_scope.cancel()
