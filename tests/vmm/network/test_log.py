"""What a sandbox's network log keeps, gives and suggests."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from itertools import count

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.network.test_names import hosts
from tests.vmm.network.test_policy import ports
from tests.waiting import PATIENCE_S
from vmm.network.log import MOST_DESTINATIONS, NetworkEvent, NetworkLog
from vmm.network.names import is_pattern
from vmm.network.policy import MAX_ENTRIES, Policy
from vmm.network.rules import HostRules, Rules


def log(keep: int = 200) -> NetworkLog:
    return NetworkLog(count(1_700_000_000_000).__next__, keep)


def reach(journal: NetworkLog, host: str, port: int = 443) -> None:
    journal.record(allowed=True, protocol="tcp", host=host, port=port)


def refuse(journal: NetworkLog, host: str, port: int = 443) -> None:
    journal.record(allowed=False, protocol="tcp", host=host, port=port, reason='policy "packages"')


def look_up(journal: NetworkLog, name: str) -> None:
    journal.record(allowed=True, protocol="dns", host=name, port=53)


def test_events_are_numbered_and_counted() -> None:
    journal = log()
    reach(journal, "example.com")
    refuse(journal, "example.org")
    assert (journal.number, journal.allowed, journal.refused) == (2, 1, 1)
    assert journal.last() == (
        NetworkEvent(at_ms=1_700_000_000_000, allowed=True, protocol="tcp", host="example.com", port=443, reason="",
                     number=1),
        NetworkEvent(at_ms=1_700_000_000_001, allowed=False, protocol="tcp", host="example.org", port=443,
                     reason='policy "packages"', number=2),
    )  # fmt: skip


def test_the_last_events_are_chosen_by_how_they_were_decided() -> None:
    journal = log()
    for n in range(5):
        reach(journal, f"a{n}.example.com")
        refuse(journal, f"r{n}.example.com")
    assert [event.host for event in journal.last(2, allowed=False)] == ["r3.example.com", "r4.example.com"]
    assert [event.host for event in journal.last(1, allowed=True)] == ["a4.example.com"]
    assert journal.last(0) == ()
    assert [event.number for event in journal.since(8)] == [9, 10]


def test_a_log_keeps_the_newest_and_counts_all() -> None:
    journal = log(keep=3)
    for n in range(10):
        refuse(journal, f"a{n}.example.com")
    assert [event.number for event in journal.last(100)] == [8, 9, 10]
    assert [event.number for event in journal.since(0)] == [8, 9, 10]
    assert journal.refused == 10


@pytest.mark.anyio
async def test_followers_get_what_was_and_what_comes() -> None:
    journal = log()
    refuse(journal, "before.example.com")
    reach(journal, "also.example.com")
    seen: list[list[str]] = [[], []]
    arrived = anyio.Event()

    async def follow(into: list[str]) -> None:
        async for event in journal.follow(1):
            into.append(event.host)
            if len(into) == 4:
                if all(len(hosts) == 4 for hosts in seen):
                    arrived.set()
                return

    async with anyio.create_task_group() as tasks:
        for into in seen:
            tasks.start_soon(follow, into)
        await anyio.wait_all_tasks_blocked()
        assert seen == [["also.example.com"]] * 2
        reach(journal, "one.example.com")
        reach(journal, "two.example.com")
        await anyio.wait_all_tasks_blocked()
        reach(journal, "three.example.com")
        await arrived.wait()
    assert seen == [["also.example.com", "one.example.com", "two.example.com", "three.example.com"]] * 2


@pytest.mark.anyio
async def test_a_follower_that_falls_behind_gets_what_is_kept() -> None:
    journal = log(keep=2)
    reach(journal, "first.example.com")
    follower = aiter(journal.follow(0))
    assert (await anext(follower)).number == 1
    for n in range(5):
        reach(journal, f"a{n}.example.com")
    assert [(await anext(follower)).number for _ in range(2)] == [5, 6]


@pytest.mark.anyio
async def test_nothing_reached_suggests_none() -> None:
    journal = log()
    refuse(journal, "example.com")
    assert await journal.suggestion() == "none"


@pytest.mark.anyio
async def test_a_suggestion_is_what_was_reached_and_not_more() -> None:
    journal = log(keep=1)
    look_up(journal, "example.com")
    reach(journal, "example.com", 443)
    reach(journal, "git.example.org", 22)
    reach(journal, "198.51.100.7", 443)
    refuse(journal, "10.0.0.1", 80)
    assert await journal.suggestion() == "example.com,git.example.org,198.51.100.7,22/tcp,443/tcp"


@pytest.mark.parametrize(
    ("protocol", "port", "destination"),
    [
        ("tcp", 443, "example.com:443"),
        ("udp", 443, "example.com:443/udp"),
        ("icmp", 0, "example.com/icmp"),
        ("dns", 53, "example.com"),
    ],
)
def test_a_destination_is_written_with_what_is_not_tcp(protocol: str, port: int, destination: str) -> None:
    journal = log()
    journal.record(allowed=True, protocol=protocol, host="example.com", port=port)
    assert journal.last(1)[0].destination == destination


@pytest.mark.anyio
async def test_what_is_not_tcp_is_suggested_by_its_address_and_without_ports() -> None:
    journal = log()
    reach(journal, "example.org", 443)
    address = IPv4Address("198.51.100.7")
    journal.record(allowed=True, protocol="udp", host="example.com", port=123, address=address)
    journal.record(allowed=True, protocol="icmp", host="192.0.2.1", port=0, address=IPv4Address("192.0.2.1"))
    suggestion = await journal.suggestion()
    assert suggestion == "example.com,example.org,192.0.2.1,198.51.100.7"
    assert Rules(Policy.parse(suggestion), HostRules()).packet(address, ()).allowed


@pytest.mark.anyio
async def test_a_connection_to_port_0_suggests_no_port() -> None:
    journal = log()
    reach(journal, "example.com", 0)
    reach(journal, "example.com", 443)
    assert await journal.suggestion() == "example.com,443/tcp"


@pytest.mark.anyio
async def test_names_that_no_list_can_have_are_left_out() -> None:
    journal = log()
    for name in ("localhost", "*", "bad name.example.com", "\x00.example.com", "a" * 300, "example.com"):
        look_up(journal, name)
    assert await journal.suggestion() == "example.com"


@pytest.mark.anyio
async def test_many_names_of_one_domain_become_a_wildcard() -> None:
    journal = log()
    for n in range(MAX_ENTRIES):
        reach(journal, f"shard{n}.example.com")
    reach(journal, "example.org")
    assert await journal.suggestion() == "*.example.com,example.org,443/tcp"


@pytest.mark.anyio
async def test_a_suggestion_fits_whatever_was_reached() -> None:
    journal = log()
    for n in range(MOST_DESTINATIONS):
        reach(journal, str(IPv4Address("198.51.100.0") + n * 7) if n % 2 else f"a.b{n}.example.com", 1 + n)
    assert len(Policy.parse(await journal.suggestion()).text().split(",")) <= MAX_ENTRIES


@pytest.mark.anyio
async def test_thousands_of_deep_names_are_joined_while_the_server_goes_on() -> None:
    journal = log()
    for n in range(MOST_DESTINATIONS):
        below = f"{chr(97 + n % 26)}." * 110
        reach(journal, f"n{n}.{below}d{n % 600}.example.com")
    went_on = False
    suggested = ""

    async def go_on() -> None:
        nonlocal went_on
        went_on = True

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(go_on)
            suggested = await journal.suggestion()
            assert went_on
    assert suggested == "*.example.com,443/tcp"


@pytest.mark.anyio
async def test_only_domains_with_many_names_become_wildcards() -> None:
    journal = log()
    for n in range(MAX_ENTRIES):
        reach(journal, f"shard{n}.cdn.example.com")
    reach(journal, "a.b.c.d.example.org")
    reach(journal, "deep.shard7.cdn.example.com")
    assert await journal.suggestion() == "*.cdn.example.com,a.b.c.d.example.org,443/tcp"


@given(st.lists(st.tuples(hosts | st.ip_addresses(v=4).map(str), ports), max_size=30))
def test_a_suggestion_allows_what_was_allowed(reached: list[tuple[str, int]]) -> None:
    journal = log()
    for host, port in reached:
        if Rules(Policy.parse("learn"), HostRules()).connection(address_of(host), port, ()).allowed:
            reach(journal, host, port)
    rules = Rules(Policy.parse(anyio.run(journal.suggestion)), HostRules())
    for event in journal.last(200, allowed=True):
        if is_address(event.host) or is_pattern(event.host):
            assert rules.connection(address_of(event.host), event.port, {event.host}).allowed


def is_address(host: str) -> bool:
    try:
        IPv4Address(host)
    except AddressValueError:
        return False
    return True


def address_of(host: str) -> IPv4Address:
    return IPv4Address(host) if is_address(host) else IPv4Address("198.51.100.99")
