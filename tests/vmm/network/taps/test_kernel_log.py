"""What the kernel logs of real packets, as events."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from ipaddress import IPv4Address

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.vmm.network.taps.namespaces import Namespace, lacking, namespace
from tests.waiting import PATIENCE_S
from vmm.errors import Unavailable
from vmm.network.taps.kernel_log import GROUP, KernelEvent, KernelLog, parsed

HERE = IPv4Address("127.0.0.1")

in_namespaces = pytest.mark.skipif(bool(lacking()), reason=f"No namespaces with rules: {lacking()}")

_RULES = f"""
table ip logged {{
  chain sent {{
    type filter hook output priority filter;
    udp dport 9999 drop
    meta l4proto udp log prefix "refused" group {GROUP} snaplen 4096 drop
    meta l4proto icmp log prefix "allowed" group {GROUP}
    tcp flags syn log prefix "limited " group {GROUP} reject with tcp reset
    meta l4proto 99 log prefix "refused" group {GROUP} drop
  }}
}}
"""


@contextmanager
def logged() -> Generator[tuple[Namespace, KernelLog]]:
    """A namespace that logs what it sends to itself."""
    with namespace() as place, place.run(KernelLog.open) as log:
        place.nft(_RULES)
        yield place, log


def send(place: Namespace, port: int, *, times: int = 1, data: bytes = b"x") -> None:
    """Send over UDP; the rules drop it."""

    def sent() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            for _ in range(times):
                try:
                    own.sendto(data, (str(HERE), port))
                except PermissionError:  # so the kernel tells the sender that its packet was dropped
                    continue

    place.run(sent)


async def next_of(events: AsyncGenerator[KernelEvent]) -> KernelEvent:
    with anyio.fail_after(PATIENCE_S):
        return await anext(events)


def event(prefix: str, protocol: str, port: int) -> KernelEvent:
    return KernelEvent(prefix=prefix, source=HERE, destination=HERE, protocol=protocol, port=port)


@in_namespaces
@pytest.mark.anyio
async def test_packets_are_events_with_what_the_rule_says_and_where_they_were_to_go() -> None:
    with logged() as (place, log):
        async with aclosing(log.events()) as events:
            send(place, 443)
            assert await next_of(events) == event("refused", "udp", 443)
            send(place, 123, data=bytes(1400))
            assert await next_of(events) == event("refused", "udp", 123)

            def connect() -> None:
                with socket.socket() as own:
                    own.connect_ex((str(HERE), 8080))

            place.run(connect)
            assert await next_of(events) == event("limited", "tcp", 8080)

            def other() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_RAW, 99) as own:
                    own.sendto(b"x", (str(HERE), 0))

            with pytest.raises(PermissionError):
                place.run(other)
            assert await next_of(events) == event("refused", "protocol-99", 0)

            def ping() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as own:
                    own.sendto(b"\x08\0\xf7\xff\0\0\0\0", (str(HERE), 0))

            place.run(ping)
            assert await next_of(events) == event("allowed", "icmp", 0)


@in_namespaces
@pytest.mark.anyio
async def test_packets_of_other_rules_are_no_events() -> None:
    with logged() as (place, log):
        async with aclosing(log.events()) as events:
            send(place, 9999)
            send(place, 5353)
            assert (await next_of(events)).port == 5353


@in_namespaces
@pytest.mark.anyio
async def test_events_that_are_lost_are_said_once_and_those_after_them_come() -> None:
    with logged() as (place, log), capture_logs() as said:
        async with aclosing(log.events()) as events:
            for _ in range(2):
                send(place, 1, times=20_000)
                seen = await next_of(events)
                while seen.port != 2:
                    # Again and again: the first may be lost, too.
                    send(place, 2)
                    seen = await next_of(events)
    assert [entry["event"] for entry in said] == ["events of the kernel lost, network logs of sandboxes lack them"]


@in_namespaces
@pytest.mark.anyio
async def test_a_log_that_is_closed_ends() -> None:
    with logged() as (_, log):
        ended = anyio.Event()

        async def read() -> None:
            assert [found async for found in log.events()] == []
            ended.set()

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                log.close()
                await ended.wait()
        assert [found async for found in log.events()] == []
        log.close()


@in_namespaces
@pytest.mark.anyio
async def test_a_group_has_one_reader_and_is_free_after_it() -> None:
    with namespace() as place:
        with place.run(KernelLog.open), pytest.raises(Unavailable, match="group 51806"):
            place.run(KernelLog.open)
        with place.run(KernelLog.open):
            pass


def message(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    """Write a netlink message of the log."""
    body = bytes(4)
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    return struct.pack("=LHHLL", 16 + len(body), kind, 0, 0, 0) + body


def packet(protocol: int = 17, *, options: int = 0, offset: int = 0, payload: bytes = b"\0\1\1\xbb") -> bytes:
    first = 0x40 | (5 + options)
    header = struct.pack("!BxHxxHxBxx4s4s", first, 20, offset, protocol, HERE.packed, HERE.packed)
    return header + bytes(4 * options) + payload


PACKET = 0x400


def test_several_messages_may_come_at_once() -> None:
    one = message(PACKET, (10, b"allowed\0"), (9, packet()))
    other = message(PACKET, (9, packet(options=10)), (10, b"refused\0"))
    assert list(parsed(one + message(2, (1, b"x")) + other)) == [
        event("allowed", "udp", 443),
        event("refused", "udp", 443),
    ]


@pytest.mark.parametrize(
    "damaged",
    [
        packet()[:19],
        b"",
        b"\x60" + bytes(39),
        b"\x44" + packet()[1:],
    ],
    ids=["short", "empty", "ipv6", "header-of-16-bytes"],
)
def test_what_is_no_packet_of_ipv4_is_no_event(damaged: bytes) -> None:
    assert list(parsed(message(PACKET, (9, damaged)))) == []


@pytest.mark.parametrize(
    "cut",
    [packet(payload=b"\0\1\1"), packet(offset=1), packet(options=10, payload=b"")],
    ids=["short", "later-fragment", "without-payload"],
)
def test_a_packet_without_ports_is_an_event_without_a_port(cut: bytes) -> None:
    assert [found.port for found in parsed(message(PACKET, (9, cut)))] == [0]


@given(st.binary(max_size=200), st.integers(0, 200))
def test_whatever_comes_is_read_to_its_end(data: bytes, place: int) -> None:
    list(parsed(data))
    whole = message(PACKET, (10, b"allowed\0"), (9, packet()))
    list(parsed(whole[:place] + data + whole[place:]))
