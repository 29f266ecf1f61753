"""The resolver answers what the policy allows from the host's name server, and everything else at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import anyio
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.network.name_server import NameServer, name_server, usual
from tests.vmm.network.programs import Program, program
from tests.waiting import PATIENCE_S, until
from vmm.network.addresses import AddressBook
from vmm.network.log import NetworkLog
from vmm.network.policy import Policy
from vmm.network.resolver import MOST_ASKED, MOST_IN_FLIGHT, Resolver
from vmm.network.rules import HostRules, Rules
from vmm.network.tcp import reset
from vmm.network.upstream import ResolvConf, Upstream

pytestmark = pytest.mark.anyio

ADDRESS = IPv4Address("198.51.100.7")


class Asker:
    """One sandbox that asks."""

    def __init__(self, resolver: Resolver, policy: str, host: HostRules | None = None) -> None:
        self.resolver = resolver
        self.rules = Rules(Policy.parse(policy), host or HostRules())
        self.book = AddressBook()
        self.log = NetworkLog(lambda: 0)

    async def ask(self, name: str, kind: str = "A") -> dns.message.Message:
        return await self.send(dns.message.make_query(name, kind, use_edns=0, payload=4096))

    async def send(self, query: dns.message.Message) -> dns.message.Message:
        with anyio.fail_after(PATIENCE_S):
            wire = await self.resolver.answer(query.to_wire(), self.rules, self.book, self.log)
        answer = dns.message.from_wire(wire)
        assert query.is_response(answer)
        return answer

    def refusals(self) -> list[tuple[str, str, str]]:
        return [(event.protocol, event.host, event.reason) for event in self.log.last(100, allowed=False)]


@asynccontextmanager
async def asking(policy: str = "internet", host: HostRules | None = None) -> AsyncGenerator[tuple[Asker, NameServer]]:
    async with name_server() as server:
        server.add("www.example.com. 300 IN A 198.51.100.7")
        # Longer than any test's answer takes, so that it is given up only where the test says so.
        upstream = Upstream(server.servers, answer_s=PATIENCE_S, place_s=PATIENCE_S)
        yield Asker(Resolver(upstream, place_s=PATIENCE_S), policy, host), server


def addresses(answer: dns.message.Message) -> set[str]:
    return {text.split()[-1] for text in lines(answer) if " IN A " in text}


def lines(answer: dns.message.Message) -> list[str]:
    return [line for record in answer.answer for line in record.to_text().splitlines()]


async def test_a_name_is_answered_and_noted_for_the_sandbox() -> None:
    async with asking() as (box, server):
        answer = await box.ask("WWW.example.com")
        assert answer.rcode() == dns.rcode.NOERROR
        assert addresses(answer) == {"198.51.100.7"}
        assert answer.answer[0].ttl == 300
        assert box.book.names(ADDRESS) == {"www.example.com"}
        assert server.asked == [("www.example.com", "A", True)]


@pytest.mark.parametrize("policy", ["none", "packages", "example.com, *.example.org", "198.51.100.0/24"])
@pytest.mark.parametrize("kind", ["A", "AAAA", "TXT", "HTTPS", "NS"])
async def test_a_name_outside_the_policy_is_refused_at_once_and_asked_nowhere(policy: str, kind: str) -> None:
    async with asking(policy) as (box, server):
        answer = await box.ask("www.example.com", kind)
        assert answer.rcode() == dns.rcode.REFUSED
        assert not answer.answer
        assert server.asked == []
        assert box.refusals() == [("dns", "www.example.com", f'policy "{box.rules.policy.mode}"')]


async def test_a_name_of_the_policy_is_answered() -> None:
    async with asking("*.example.com") as (box, _):
        assert addresses(await box.ask("www.example.com")) == {"198.51.100.7"}
        assert box.refusals() == []


@pytest.mark.parametrize("kind", ["AAAA", "HTTPS", "SVCB"])
async def test_there_is_no_ipv6_and_no_key_for_an_encrypted_hello(kind: str) -> None:
    async with asking() as (box, server):
        answer = await box.ask("www.example.com", kind)
        assert (answer.rcode(), answer.answer, server.asked) == (dns.rcode.NOERROR, [], [])


@pytest.mark.parametrize(
    "line",
    [
        'mail.example.com. 60 IN TXT "v=spf1 -all"',
        "mail.example.com. 60 IN MX 10 mx.example.com.",
        "mail.example.com. 60 IN SRV 0 0 443 www.example.com.",
        "mail.example.com. 60 IN CNAME www.example.com.",
        "7.100.51.198.in-addr.arpa. 60 IN PTR www.example.com.",
    ],
)
async def test_other_records_are_passed_on(line: str) -> None:
    async with asking() as (box, server):
        server.add(line)
        name, _, _, kind, value = line.split(maxsplit=4)
        answer = await box.ask(name, kind)
        assert [text.split(maxsplit=4)[4] for text in lines(answer)] == [value]


@pytest.mark.parametrize("name", ["5.0.0.10.in-addr.arpa", "254.169.254.169.in-addr.arpa", "no-address.example.com"])
async def test_names_of_private_addresses_are_not_told(name: str) -> None:
    async with asking() as (box, server):
        server.add(f"{name}. 60 IN PTR db.internal.example.com.")
        answer = await box.ask(name, "PTR")
        assert (answer.rcode(), answer.answer, server.asked) == (dns.rcode.NXDOMAIN, [], [])


@pytest.mark.parametrize("kind", ["ANY", "NS", "SOA", "NULL", "DNSKEY"])
async def test_other_types_are_not_implemented(kind: str) -> None:
    async with asking() as (box, server):
        assert (await box.ask("www.example.com", kind)).rcode() == dns.rcode.NOTIMP
        assert server.asked == []


async def test_a_name_that_does_not_exist_is_told_so() -> None:
    async with asking() as (box, _):
        assert (await box.ask("nowhere.example.com")).rcode() == dns.rcode.NXDOMAIN
        assert box.refusals() == []


async def test_addresses_at_the_end_of_aliases_count_for_the_name_that_was_asked() -> None:
    async with asking("shop.example.com") as (box, server):
        server.add("shop.example.com. 60 IN CNAME cdn.example.net.", "cdn.example.net. 60 IN CNAME a.example.org.")
        server.add("a.example.org. 60 IN A 198.51.100.7")
        answer = await box.ask("shop.example.com")
        assert [record.rdtype.name for record in answer.answer] == ["CNAME", "CNAME", "A"]
        assert box.book.names(ADDRESS) == {"shop.example.com"}


async def test_aliases_in_a_circle_have_no_address() -> None:
    async with asking() as (box, server):
        server.add("a.example.com. 60 IN CNAME b.example.com.", "b.example.com. 60 IN CNAME a.example.com.")
        assert (await box.ask("a.example.com")).answer == []


async def test_addresses_of_a_name_that_was_not_asked_for_are_left_out() -> None:
    def also(answer: dns.message.Message, udp: bool) -> Sequence[bytes]:
        answer.answer.append(dns.rrset.from_text("evil.example.net.", 60, "IN", "A", "192.0.2.66"))
        answer.additional.append(dns.rrset.from_text("evil.example.net.", 60, "IN", "A", "192.0.2.66"))
        return usual(answer, udp)

    async with asking() as (box, server):
        server.changed = also
        assert addresses(await box.ask("www.example.com")) == {"198.51.100.7"}
        assert box.book.names(IPv4Address("192.0.2.66")) == frozenset()


@pytest.mark.parametrize("policy", ["internet", "learn", "rebind.example.com"])
@pytest.mark.parametrize(
    ("private", "reason"),
    [
        ("127.0.0.1", "loopback address"),
        ("10.0.0.1", "private address"),
        ("169.254.169.254", "link-local address"),
        ("0.0.0.1", "unspecified address"),
        ("203.0.113.5", "address of the host"),
    ],
)
async def test_a_name_that_leads_inwards_does_not_exist_and_its_address_is_not_told(
    policy: str, private: str, reason: str
) -> None:
    own = HostRules(own=(IPv4Address("203.0.113.5"),))
    async with asking(policy, own) as (box, server):
        server.add(f"rebind.example.com. 60 IN A {private}")
        answer = await box.ask("rebind.example.com")
        assert (answer.rcode(), answer.answer) == (dns.rcode.NXDOMAIN, [])
        assert box.refusals() == [("dns", "rebind.example.com", reason)]
        assert box.book.names(IPv4Address(private)) == frozenset()


async def test_private_addresses_are_taken_out_of_the_others() -> None:
    async with asking() as (box, server):
        server.add("mixed.example.com. 60 IN A 10.0.0.1", "mixed.example.com. 60 IN A 198.51.100.8")
        assert addresses(await box.ask("mixed.example.com")) == {"198.51.100.8"}


async def test_private_addresses_that_the_operator_opened_are_told() -> None:
    async with asking("internet", HostRules(opened=(IPv4Network("10.0.0.0/24"),))) as (box, server):
        server.add("db.example.com. 60 IN A 10.0.0.1")
        assert addresses(await box.ask("db.example.com")) == {"10.0.0.1"}


async def test_a_name_may_have_a_hundred_addresses() -> None:
    expected = {f"198.51.100.{number}" for number in range(1, 101)}
    async with asking() as (box, server):
        server.add(*(f"many.example.com. 60 IN A {address}" for address in sorted(expected)))
        assert addresses(await box.ask("many.example.com")) == expected
        assert server.asked == [("many.example.com", "A", True), ("many.example.com", "A", False)]
        assert all(box.book.names(IPv4Address(address)) == {"many.example.com"} for address in expected)
        small = await box.send(dns.message.make_query("many.example.com", "A"))
        assert small.flags & dns.flags.TC
        assert addresses(small) < expected


async def test_an_answer_that_comes_after_garbage_is_the_one_that_counts() -> None:
    def after_garbage(answer: dns.message.Message, udp: bool) -> Sequence[bytes]:
        forged = dns.message.from_wire(answer.to_wire())
        forged.id = answer.id ^ 1
        return [b"", b"garbage", bytes(12), forged.to_wire(), answer.to_wire()]

    async with asking() as (box, server):
        server.changed = after_garbage
        assert addresses(await box.ask("www.example.com")) == {"198.51.100.7"}


@pytest.mark.parametrize("sent", [[], [b"garbage"]])
async def test_a_name_server_that_gives_no_answer_is_a_failure_in_time(sent: list[bytes]) -> None:
    async with asking() as (box, server):
        server.changed = lambda _answer, _udp: sent
        box.resolver = Resolver(Upstream(server.servers, answer_s=0.2))
        assert (await box.ask("www.example.com")).rcode() == dns.rcode.SERVFAIL
        assert len(server.asked) == 2  # UDP loses packets, so it is asked again


async def test_a_name_server_that_fails_is_a_failure() -> None:
    def fail(answer: dns.message.Message, udp: bool) -> Sequence[bytes]:
        answer.set_rcode(dns.rcode.SERVFAIL)
        return usual(answer, udp)

    async with asking() as (box, server):
        server.changed = fail
        assert (await box.ask("www.example.com")).rcode() == dns.rcode.SERVFAIL


async def test_the_next_name_server_is_asked_where_the_first_does_not_answer() -> None:
    async with name_server() as silent, asking() as (box, server):
        silent.changed = lambda _answer, _udp: []
        both = (*silent.servers(), *server.servers())
        box.resolver = Resolver(Upstream(lambda: both, answer_s=2))
        assert addresses(await box.ask("www.example.com")) == {"198.51.100.7"}


async def test_without_a_name_server_there_is_no_answer() -> None:
    box = Asker(Resolver(Upstream(tuple)), "internet")
    assert (await box.ask("www.example.com")).rcode() == dns.rcode.SERVFAIL


async def test_a_flood_of_one_sandbox_is_cut_and_another_is_answered() -> None:
    async with asking() as (box, server):
        server.hold = anyio.Event()
        other = Asker(box.resolver, "internet")
        codes: list[int] = []

        async def ask(asker: Asker) -> None:
            codes.append((await asker.ask("www.example.com")).rcode())

        async with anyio.create_task_group() as tasks:
            for _ in range(MOST_IN_FLIGHT + 5):
                tasks.start_soon(ask, box)
            await until(lambda: len(codes) == 5)
            assert set(codes) == {dns.rcode.SERVFAIL}
            tasks.start_soon(ask, other)
            await until(lambda: len(server.asked) == MOST_ASKED + 1)
            server.hold.set()
        assert codes[5:] == [dns.rcode.NOERROR] * (MOST_IN_FLIGHT + 1)
        assert (await box.ask("www.example.com")).rcode() == dns.rcode.NOERROR


async def test_questions_of_a_sandbox_that_find_no_place_fail_before_those_that_have_one() -> None:
    async with asking() as (box, server):
        server.hold = anyio.Event()
        box.resolver = Resolver(Upstream(server.servers, answer_s=PATIENCE_S), place_s=0.1)
        codes: list[int] = []

        async def ask() -> None:
            codes.append((await box.ask("www.example.com")).rcode())

        async with anyio.create_task_group() as tasks:
            for _ in range(MOST_IN_FLIGHT):
                tasks.start_soon(ask)
            await until(lambda: len(codes) == MOST_IN_FLIGHT - MOST_ASKED)
            assert set(codes) == {dns.rcode.SERVFAIL}
            server.hold.set()
        assert codes[MOST_IN_FLIGHT - MOST_ASKED :] == [dns.rcode.NOERROR] * MOST_ASKED


async def test_sandboxes_share_the_places_of_the_host() -> None:
    async with asking() as (box, server):
        server.hold = anyio.Event()
        box.resolver = Resolver(Upstream(server.servers, answer_s=PATIENCE_S, at_once=1, place_s=0.1))
        other = Asker(box.resolver, "internet")

        async def ask() -> None:
            assert (await box.ask("www.example.com")).rcode() == dns.rcode.NOERROR

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: server.asked)
            assert (await other.ask("www.example.com")).rcode() == dns.rcode.SERVFAIL
            server.hold.set()
        assert (await other.ask("www.example.com")).rcode() == dns.rcode.NOERROR


async def test_learning_notes_the_names_that_were_looked_up() -> None:
    async with asking("learn") as (box, _):
        await box.ask("www.example.com")
        await box.ask("nowhere.example.com")
        assert await box.log.suggestion() == "www.example.com"


@pytest.mark.parametrize("opcode", [dns.opcode.STATUS, dns.opcode.NOTIFY])
async def test_other_operations_are_not_implemented(opcode: dns.opcode.Opcode) -> None:
    async with asking() as (box, _):
        query = dns.message.make_query("www.example.com", "A")
        query.set_opcode(opcode)
        assert (await box.send(query)).rcode() == dns.rcode.NOTIMP


async def test_another_class_is_refused() -> None:
    async with asking() as (box, _):
        query = dns.message.make_query("version.bind", "TXT", rdclass="CH")
        assert (await box.send(query)).rcode() == dns.rcode.REFUSED


QUERY = dns.message.make_query("www.example.com", "A", id=258).to_wire()


@given(st.one_of(st.binary(max_size=100), st.binary(max_size=40).map(lambda rest: QUERY[:12] + rest)))
def test_any_message_gets_an_answer_with_its_id(sent: bytes) -> None:
    async def answer() -> bytes:
        box = Asker(Resolver(Upstream(tuple)), "internet")
        return await box.resolver.answer(sent, box.rules, box.book, box.log)

    got = anyio.run(answer)
    assert got[:2] == sent[:2].ljust(2, b"\0")
    assert dns.message.from_wire(got).flags & dns.flags.QR


@pytest.mark.parametrize("sent", [b"", b"\1", QUERY[:-1], QUERY[:2] + b"\x81\x80" + QUERY[4:], QUERY + b"x"])
async def test_a_malformed_message_is_a_format_error(sent: bytes) -> None:
    box = Asker(Resolver(Upstream(tuple)), "internet")
    got = await box.resolver.answer(sent, box.rules, box.book, box.log)
    assert dns.message.from_wire(got).rcode() == dns.rcode.FORMERR


async def asked_over_tcp(connection: Program, name: str) -> dns.message.Message:
    query = dns.message.make_query(name, "A").to_wire()
    await connection.stream.send(len(query).to_bytes(2, "big") + query)
    received = b""
    while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
        received += await connection.stream.receive()
    return dns.message.from_wire(received[2:])


async def test_queries_over_tcp_are_answered_in_full_until_the_program_ends() -> None:
    async with asking() as (box, server), program() as connection, anyio.create_task_group() as tasks:
        server.add(*(f"many.example.com. 60 IN A 198.51.100.{number}" for number in range(1, 101)))

        async def serve() -> None:
            async with connection.take() as stream:
                await box.resolver.serve(stream, lambda: box.rules, box.book, box.log)

        tasks.start_soon(serve)
        assert len(addresses(await asked_over_tcp(connection, "many.example.com"))) == 100
        assert len(addresses(await asked_over_tcp(connection, "www.example.com"))) == 1
        await connection.stream.send_eof()
        assert await connection.everything() == b""


async def test_a_program_that_is_gone_in_the_middle_of_a_query_is_no_error() -> None:
    async with asking() as (box, _), program() as connection, connection.take() as stream:
        await connection.stream.send(b"\0")
        await connection.stream.send_eof()
        await reset(connection.stream)
        await box.resolver.serve(stream, lambda: box.rules, box.book, box.log)


def test_name_servers_are_read_from_resolv_conf_and_again_when_it_changes(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    servers = ResolvConf(conf)
    assert servers() == ()
    conf.write_text("search example.com\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions edns0\n")
    assert servers() == (("192.0.2.53", 53), ("2001:db8::53", 53))
    conf.write_text("nameserver 198.51.100.53\n")
    assert servers() == (("198.51.100.53", 53),)
    conf.write_text("# none\n")
    assert servers() == ()
