"""Calls about the guest's network: what leaves it and waits for a decision, and streams to and from its programs."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import cast

import anyio
from anyio.abc import ByteStream

from vmm.agent import frames
from vmm.errors import LinkError

from .caller import Caller, pack_request
from .connection import Connection, refusal

_MAX_PORT = 65535
_MAX_EVENTS = 1024
_MAX_RESULT = 4096
_FINISH_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundConnection:
    """A TCP connection that a program in the guest has opened; it waits at the agent."""

    id: int
    address: IPv4Address
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundQuery:
    """A DNS query of a program in the guest, as it was sent; it waits for `answer`."""

    id: int
    query: bytes


class NetworkCalls(Caller):
    """The link's calls about the network."""

    async def outbound(self, *, wait_ms: int, again: bool = False) -> tuple[OutboundConnection | OutboundQuery, ...]:
        """Return what has left the guest since the last call; waits for it up to `wait_ms`.

        Args:
            wait_ms: How long to wait if there is nothing.
            again: Whether to return everything that waits for a decision, because an earlier answer may be lost. Calls
                that still wait in the guest then get nothing.

        Raises:
            GuestError: The guest has no network.
        """
        reply = await self._call("outbound", own_s=wait_ms / 1000, wait_ms=wait_ms, again=again)
        events = reply.value.get("events")
        if not isinstance(events, list):
            raise LinkError("The guest's list of connections is not a list")
        events = cast("list[object]", events)
        if len(events) > _MAX_EVENTS:
            raise LinkError(f"The guest's list of connections must have at most {_MAX_EVENTS} entries")
        return tuple(_event(event) for event in events)

    async def refuse(self, connection: int) -> None:
        """Reset an outbound connection; a no-op if it is gone."""
        await self._call("refuse", id=connection)

    async def answer(self, query: int, message: bytes) -> None:
        """Answer a DNS query; a no-op if it was given up."""
        await self._call("answer", body=message, id=query)

    @asynccontextmanager
    async def carry(self, connection: int) -> AsyncGenerator[ByteStream]:
        """Take over an outbound connection as a byte stream; leaving the block before both ends have ended resets it.

        Raises:
            Conflict: The program has closed it.
        """
        async with self._carried("carry", id=connection) as stream:
            yield stream

    @asynccontextmanager
    async def connect(self, port: int) -> AsyncGenerator[ByteStream]:
        """Connect to a TCP server on the guest's localhost; leaving the block before both ends have ended resets it.

        Raises:
            Conflict: Nothing listens on that port.
        """
        async with self._carried("connect", port=port) as stream:
            yield stream

    @asynccontextmanager
    async def _carried(self, name: str, /, **arguments: object) -> AsyncGenerator[ByteStream]:
        connection = await self._pool.take()
        carried = _Carried(connection)
        try:
            async with self._vitality.watch(name):
                await connection.send(pack_request(name, arguments, with_body=True))
                kind, payload = await connection.receive(most=frames.MAX_DATA)
            if kind == frames.ERROR:
                await connection.send(frames.pack(frames.END))
                carried.finished = True
                raise refusal(payload)
            if kind != frames.HEAD:
                raise LinkError(f"The guest answered {name!r} with an unexpected frame of kind {kind}")
            yield carried
            await carried.finish()
        finally:
            if carried.finished:
                await self._pool.keep(connection)
            else:
                await connection.aclose()


class _Carried(ByteStream):
    """A TCP connection of a program in the guest, in the data frames of one connection to the agent.

    Attributes:
        finished: Whether both directions have ended and the agent has said so, so that its connection is free again.
    """

    def __init__(self, connection: Connection) -> None:
        self.finished = False
        self._connection = connection
        self._received_all = False
        self._sent_all = False

    async def receive(self, max_bytes: int = frames.MAX_DATA) -> bytes:
        """Receive a piece, which may be longer than `max_bytes`: it is as long as the agent made it."""
        del max_bytes
        if self._received_all:
            raise anyio.EndOfStream
        try:
            kind, payload = await self._connection.receive(most=frames.MAX_DATA)
        except LinkError as error:
            raise anyio.BrokenResourceError from error
        if kind == frames.DATA:
            return payload
        self._received_all = True
        if kind == frames.END:
            raise anyio.EndOfStream
        raise anyio.BrokenResourceError

    async def send(self, item: bytes) -> None:
        """Send all of it."""
        try:
            for start in range(0, len(item), frames.MAX_DATA):
                await self._connection.send(frames.pack(frames.DATA, item[start : start + frames.MAX_DATA]))
        except LinkError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """End this direction; the other goes on."""
        if not self._sent_all:
            self._sent_all = True
            try:
                await self._connection.send(frames.pack(frames.END))
            except LinkError as error:
                raise anyio.BrokenResourceError from error

    async def finish(self) -> None:
        """Learn from the agent that it is done, if both directions have ended."""
        if self._received_all and self._sent_all:
            with anyio.move_on_after(_FINISH_S):
                try:
                    kind, _ = await self._connection.receive(most=_MAX_RESULT)
                except LinkError:
                    return  # It was broken off after all: what was carried has arrived, or its reader has gone.
                self.finished = kind == frames.RESULT

    async def aclose(self) -> None:
        """Break it off, unless it has ended already."""
        if not (self._received_all and self._sent_all):
            await self._connection.aclose()


def _event(value: object) -> OutboundConnection | OutboundQuery:
    try:
        event = cast("dict[str, object]", value)
        number = event["id"]
        if not isinstance(number, int):
            raise LinkError("The guest numbers a connection in a way that is not known")
        if event["kind"] == "dns":
            return OutboundQuery(id=number, query=base64.b64decode(str(event["query"]), validate=True))
        port = event["port"]
        if not isinstance(port, int) or not 0 <= port <= _MAX_PORT:
            raise LinkError("The guest names a port that does not exist")
        return OutboundConnection(id=number, address=IPv4Address(str(event["address"])), port=port)
    except (KeyError, TypeError, ValueError) as error:
        raise LinkError("The guest's list of connections is damaged") from error
