"""The gateway against guests that do what no agent does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import cast

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream

from tests.waiting import PATIENCE_S, until
from vmm.errors import LinkError
from vmm.guest.link import GuestLink
from vmm.guest.network import OutboundConnection, OutboundQuery
from vmm.network.gateway import Gateway, WayOut
from vmm.network.policy import Policy
from vmm.network.rules import HostRules
from vmm.network.tcp import Connect
from vmm.network.way import MOST_CONNECTIONS

pytestmark = pytest.mark.anyio

SANDBOX = "f" * 24
PUBLIC = IPv4Address("198.51.100.7")
Event = OutboundConnection | OutboundQuery


class Guest:
    """The calls of a link, answered by a test.

    Attributes:
        lists: What `outbound` answers, one after the other; then nothing more comes.
        refused: The connections that were refused.
        answered: The queries that were answered.
        takes: Unset, refusals are not taken before it is set.
        asked: Whether each `outbound` asked for everything again.
    """

    def __init__(self, *lists: tuple[Event, ...] | Exception) -> None:
        self.lists = list(lists)
        self.refused: list[int] = []
        self.answered: list[int] = []
        self.takes = anyio.Event()
        self.takes.set()
        self.asked: list[bool] = []
        self.idle = anyio.Event()

    async def outbound(self, *, wait_ms: int, again: bool = False) -> tuple[Event, ...]:
        assert wait_ms
        self.asked.append(again)
        if not self.lists:
            self.idle.set()
            await anyio.sleep_forever()
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def refuse(self, connection: int) -> None:
        self.refused.append(connection)
        await self.takes.wait()

    async def answer(self, query: int, message: bytes) -> None:
        assert message
        self.answered.append(query)


def connections(count: int, port: int = 80, first: int = 1) -> tuple[Event, ...]:
    return tuple(OutboundConnection(id=first + number, address=PUBLIC, port=port) for number in range(count))


@asynccontextmanager
async def served(
    guest: Guest, connect: Connect, *, network: str = "internet", limit: int = 0, idle: bool = True
) -> AsyncGenerator[Gateway]:
    """A gateway that serves this guest for the length of a block; if `idle`, from when the guest has nothing to say."""
    made = Gateway(default=Policy.parse("none"), host=HostRules, clock=lambda: 0, connect=connect, limit=limit)

    async def text() -> str:
        return network

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.serve, SANDBOX, text, cast("GuestLink", guest))
        if idle:
            await until(guest.idle.is_set)
        yield made
        tasks.cancel_scope.cancel()


async def never(_address: IPv4Address, _port: int) -> ByteStream:
    await anyio.sleep_forever()
    raise AssertionError


async def test_a_guest_that_names_connections_without_end_gets_a_bounded_number() -> None:
    guest = Guest(connections(1000), connections(1000, first=1001))
    async with served(guest, never) as gateway:
        await until(lambda: len(guest.refused) == 2000 - MOST_CONNECTIONS)
        assert "limit" in gateway.log(SANDBOX).last(1)[0].reason


async def test_all_sandboxes_together_have_a_limit_too() -> None:
    guest = Guest(connections(10))
    async with served(guest, never, limit=4):
        await until(lambda: len(guest.refused) == 6)


async def test_a_flood_of_connections_that_are_refused_holds_back_nothing_else() -> None:
    guest = Guest(connections(4), (OutboundQuery(id=9, query=b"not DNS"),))
    guest.takes = anyio.Event()
    async with served(guest, never, limit=2):
        await until(lambda: guest.answered == [9])
        assert sorted(guest.refused) == [3, 4]


async def test_a_guest_that_takes_no_refusals_is_told_of_a_bounded_number() -> None:
    guest = Guest(connections(100))
    guest.takes = anyio.Event()
    async with served(guest, never, limit=1, idle=False):
        await until(lambda: len(guest.refused) == 16)
        assert guest.asked == [True]
        guest.takes.set()
        await until(lambda: len(guest.refused) == 99)


async def test_a_destination_that_does_not_accept_holds_back_no_other() -> None:
    begun: list[int] = []

    async def connect(_address: IPv4Address, port: int) -> ByteStream:
        begun.append(port)
        await anyio.sleep_forever()
        raise AssertionError

    guest = Guest(connections(100, 81), connections(1, 82, first=101))
    async with served(guest, connect):
        await until(lambda: begun == [*[81] * 100, 82])


async def test_a_connection_that_is_named_again_is_served_once() -> None:
    dialled: list[int] = []

    async def connect(_address: IPv4Address, port: int) -> ByteStream:
        dialled.append(port)
        await anyio.sleep_forever()
        raise AssertionError

    guest = Guest(connections(3), LinkError("it broke"), connections(3))
    async with served(guest, connect):
        assert dialled == [80] * 3
    assert guest.asked == [True, False, True, False]


async def test_one_connection_that_fails_in_an_unknown_way_leaves_the_others() -> None:
    begun: list[int] = []

    async def connect(_address: IPv4Address, port: int) -> ByteStream:
        begun.append(port)
        if port == 81:
            raise ZeroDivisionError
        await anyio.sleep_forever()
        raise AssertionError

    guest = Guest(connections(1, 81), connections(1, 82, first=2))
    async with served(guest, connect):
        assert begun == [81, 82]


async def test_a_sandbox_without_a_tap_is_in_user_mode_while_it_is_served() -> None:
    async with served(Guest(), never) as gateway:
        assert gateway.way_of(SANDBOX) == WayOut(kind="user mode")
    assert gateway.way_of(SANDBOX) == WayOut(kind="user mode")


async def test_a_policy_that_is_not_understood_allows_nothing() -> None:
    guest = Guest(connections(2))
    async with served(guest, never, network="a policy of a later release"):
        assert sorted(guest.refused) == [1, 2]


async def test_a_change_of_the_policy_ends_what_it_does_not_allow() -> None:
    guest = Guest(connections(2))
    async with served(guest, never) as gateway:
        assert guest.refused == []
        await gateway.changed(SANDBOX, "none")
        with anyio.fail_after(PATIENCE_S):
            while len(guest.refused) < 2:
                await anyio.lowlevel.checkpoint()
