"""Which sandbox an address is, and what the kernel is told and tells of it: without packets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import anyio
import pytest
from structlog.testing import capture_logs

from tests.vmm.network.taps.tap_host import ONE, OTHER, SITE, RecordedTaps
from tests.waiting import until
from vmm.errors import Unavailable
from vmm.network.addresses import AddressBook
from vmm.network.log import NetworkLog
from vmm.network.policy import Policy
from vmm.network.resolver import Resolver
from vmm.network.rules import HostRules
from vmm.network.taps.fast_path import CLOSED, FastPath
from vmm.network.taps.kernel_log import ALLOWED, LIMITED, REFUSED, KernelEvent
from vmm.network.taps.tap_way import TapWay
from vmm.network.taps.tap_ways import TapWays
from vmm.network.tcp import dial
from vmm.network.way import Way

pytestmark = pytest.mark.anyio

INTERNET = FastPath(internet=True)


def way(ways: TapWays, address: IPv4Address = ONE, host: HostRules | None = None) -> TapWay:
    shared = Way(
        host=lambda: host or HostRules(),
        book=AddressBook(),
        events=NetworkLog(lambda: 0),
        resolver=Resolver(),
        connect=dial,
        room=lambda: True,
    )
    shared.book.add("example.com", SITE, 60)
    return TapWay(shared, address, ways)


@asynccontextmanager
async def served(made: TapWay, network: str = "internet") -> AsyncGenerator[None]:
    """Serve a sandbox for the length of a block, from when its policy is in force."""

    async def policy() -> Policy:
        return Policy.parse(network)

    async with anyio.create_task_group() as tasks:
        in_force = anyio.Event()
        tasks.start_soon(made.serve, policy, in_force.set)
        await until(in_force.is_set)
        yield
        tasks.cancel_scope.cancel()


async def test_a_sandbox_is_found_by_its_address_while_it_is_served() -> None:
    ways = TapWays(taps := RecordedTaps())
    made = way(ways)
    assert ways.find(ONE) is None
    async with served(made):
        assert ways.find(ONE) is made
    assert ways.find(ONE) is None
    assert taps.told == [(ONE, INTERNET), (ONE, CLOSED)]


async def test_the_end_of_a_sandbox_takes_nothing_from_the_next_one_with_its_address() -> None:
    ways = TapWays(taps := RecordedTaps())
    earlier, later = way(ways), way(ways)
    async with served(later, "internet"):
        async with anyio.create_task_group() as tasks:
            ways.add(earlier)
            ways.add(later)
            tasks.start_soon(ways.remove, earlier)
        assert ways.find(ONE) is later
        await earlier.apply(Policy.parse("none"))
        assert taps.told == [(ONE, INTERNET)]


async def test_an_end_that_the_kernel_does_not_take_is_logged_and_is_an_end() -> None:
    ways = TapWays(taps := RecordedTaps())
    with capture_logs() as said:
        async with served(way(ways)):
            taps.failing = [Unavailable("nft failed")]
    assert ways.find(ONE) is None
    assert [(entry["event"], entry["reason"]) for entry in said] == [("fast path not taken back", "nft failed")]


async def test_a_first_policy_that_the_kernel_does_not_take_ends_the_serving() -> None:
    ways = TapWays(taps := RecordedTaps())
    taps.failing = [Unavailable("nft failed")]
    with pytest.raises(ExceptionGroup) as caught:
        async with served(way(ways)):
            raise AssertionError
    assert caught.group_contains(Unavailable, match="nft failed", depth=None)
    assert ways.find(ONE) is None
    assert set(taps.told) == {(ONE, CLOSED)}


async def test_a_change_that_comes_while_the_first_policy_is_read_is_newer_than_that() -> None:
    ways = TapWays(taps := RecordedTaps())
    made, reading = way(ways), anyio.Event()

    async def policy() -> Policy:
        await reading.wait()
        return Policy.parse("internet")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.serve, policy, anyio.Event().set)
        await until(lambda: ways.find(ONE))
        await made.apply(Policy.parse("none"))
        reading.set()
        await until(lambda: len(taps.told) == 2)
        assert taps.told == [(ONE, CLOSED)] * 2
        assert made.way.policy == Policy.parse("none")
        tasks.cancel_scope.cancel()


async def test_a_change_that_is_given_up_in_the_middle_is_taken_back() -> None:
    ways = TapWays(taps := RecordedTaps())
    made = way(ways)
    async with served(made, "none"):
        taps.hold = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.apply, Policy.parse("internet"))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            taps.hold.set()
        assert taps.told == [(ONE, CLOSED)] * 2
        assert made.way.policy == Policy.parse("none")


def event(prefix: str, address: IPv4Address, port: int, protocol: str = "udp") -> KernelEvent:
    return KernelEvent(prefix=prefix, source=ONE, destination=address, protocol=protocol, port=port)


@pytest.mark.parametrize(
    ("network", "told", "destination", "reason"),
    [
        ("none", event(REFUSED, SITE, 443), "example.com:443/udp", 'policy "none"'),
        ("none", event(REFUSED, SITE, 0, "icmp"), "example.com/icmp", 'policy "none"'),
        ("learn", event(REFUSED, SITE, 443), "example.com:443/udp", 'policy "learn", which opens TCP only'),
        ("example.com", event(REFUSED, OTHER, 443), f"{OTHER}:443/udp", 'policy "allow"'),
        (
            "example.com",
            event(REFUSED, SITE, 0, "icmp"),
            "example.com/icmp",
            'policy "allow", whose names open TCP only',
        ),
        (
            "198.51.100.0/24,443/tcp",
            event(REFUSED, SITE, 443),
            "example.com:443/udp",
            'policy "allow", whose ports are those of TCP',
        ),
        (
            "internet",
            event(REFUSED, IPv4Address("10.0.0.7"), 53),
            "10.0.0.7:53/udp",
            "private address 10.0.0.7",
        ),
        ("none", event(REFUSED, OTHER, 22, "tcp"), f"{OTHER}:22", 'policy "none"'),
        (
            "example.com",
            event(REFUSED, SITE, 22, "tcp"),
            "example.com:22",
            "cut off by a change of the policy: connect again",
        ),
        ("internet", event(REFUSED, OTHER, 9), f"{OTHER}:9/udp", "refused by the policy at that moment: try again"),
        ("internet", event(LIMITED, OTHER, 9), f"{OTHER}:9/udp", "limit: too many connections are open"),
    ],
)
async def test_what_the_kernel_refuses_has_the_reason_of_the_policy(
    network: str, told: KernelEvent, destination: str, reason: str
) -> None:
    ways = TapWays(RecordedTaps())
    async with served(made := way(ways), network):
        await ways.follow(several(told))
    (recorded,) = made.way.events.last()
    assert (recorded.allowed, recorded.destination, recorded.reason) == (False, destination, reason)


async def test_what_the_kernel_forwards_has_the_name_that_the_policy_allows() -> None:
    ways = TapWays(RecordedTaps())
    async with served(made := way(ways), "198.51.100.0/24"):
        await ways.follow(several(event(ALLOWED, SITE, 443, "tcp")))
        await made.apply(Policy.parse("internet"))
        await ways.follow(several(event(ALLOWED, SITE, 443, "tcp"), event(ALLOWED, OTHER, 0, "icmp")))
    assert [(found.allowed, found.destination) for found in made.way.events.last()] == [
        (True, f"{SITE}:443"),
        (True, "example.com:443"),
        (True, f"{OTHER}/icmp"),
    ]


async def test_an_event_of_a_stranger_or_that_cannot_be_recorded_leaves_the_others() -> None:
    ways = TapWays(RecordedTaps())
    made = way(ways)
    stranger = KernelEvent(prefix=ALLOWED, source=OTHER, destination=SITE, protocol="udp", port=1)
    async with served(made):
        kept, made.way.events.record = made.way.events.record, None  # pyright: ignore[reportAttributeAccessIssue]
        await ways.follow(several(event(ALLOWED, SITE, 1)))
        made.way.events.record = kept
        await ways.follow(several(stranger, event(ALLOWED, SITE, 2)))
    assert [found.port for found in made.way.events.last()] == [2]


async def several(*events: KernelEvent) -> AsyncIterator[KernelEvent]:
    for found in events:
        yield found
