"""Answers the DNS queries of sandboxes: only what their policies allow, and never an address that leads inwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from ipaddress import AddressValueError, IPv4Address
from typing import cast
from weakref import WeakKeyDictionary

import anyio
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream
from dns.rdtypes.IN.A import A

from .addresses import AddressBook
from .log import NetworkLog
from .policy import Mode
from .rules import Rules
from .upstream import PLACE_S, NoAnswer, Places, Upstream

MOST_IN_FLIGHT = 32
"""Questions of one sandbox that wait for an answer, and its connections over TCP."""
MOST_ASKED = 8
"""Of them, those that the name server is asked at once: no sandbox may take the places of all others."""
IDLE_S = 30.0
"""Seconds that a program may keep a TCP connection without asking."""
LONGEST_S = 24 * 3600
"""The longest time to live of an answer: the book of addresses keeps no name for longer."""

_PORT = 53
_END_S = 1.0  # for the end of a TCP connection to reach the guest
_UDP_LEAST, _UDP_MOST, _TCP_MOST = 512, 4096, 65535

# HTTPS and SVCB carry keys for the encrypted ClientHello, which hides the name that a policy needs to see. IPv6 has no
# way out. "There is none" makes programs go on without; an error would make some of them give up.
_EMPTY = frozenset({dns.rdatatype.AAAA, dns.rdatatype.HTTPS, dns.rdatatype.SVCB})
_PASSED = frozenset({dns.rdatatype.CNAME, dns.rdatatype.MX, dns.rdatatype.PTR, dns.rdatatype.SRV, dns.rdatatype.TXT})


class Resolver:
    """Answers queries; one for all sandboxes of a host.

    Args:
        upstream: Knows the answers.
        place_s: Seconds that a question may wait until fewer others of its sandbox are asked.
    """

    def __init__(self, upstream: Upstream | None = None, *, place_s: float = PLACE_S) -> None:
        self._upstream = upstream or Upstream()
        self._place_s = place_s
        # Of each sandbox, for which its address book stands.
        self._in_flight: WeakKeyDictionary[AddressBook, int] = WeakKeyDictionary()
        self._places: WeakKeyDictionary[AddressBook, Places] = WeakKeyDictionary()
        self._streams: WeakKeyDictionary[AddressBook, int] = WeakKeyDictionary()

    async def answer(
        self, query: bytes, rules: Rules, book: AddressBook, log: NetworkLog, *, tcp: bool = False
    ) -> bytes:
        """Answer one message; whatever it holds, there is an answer.

        Args:
            query: The message as it was sent.
            rules: What the sandbox may reach.
            book: Where the addresses of the answer are noted for the sandbox.
            log: Where a refusal is recorded.
            tcp: Whether it came over TCP, where an answer is not cut to what the program can take.
        """
        try:
            question = dns.message.from_wire(query)
            reply = dns.message.make_response(question, recursion_available=True, our_payload=_UDP_MOST)
        except Exception:  # dnspython raises many kinds, and none of them may stop a sandbox's resolver
            return _malformed(query)
        await self._fill(reply, question, rules, book, log)
        most = _TCP_MOST if tcp else min(max(question.payload, _UDP_LEAST), _UDP_MOST)
        return reply.to_wire(max_size=most, prefer_truncation=True)

    async def serve(self, stream: ByteStream, rules: Callable[[], Rules], book: AddressBook, log: NetworkLog) -> None:
        """Answer the queries on a TCP connection, one after the other, until the program ends it or falls silent.

        Beyond so many connections of a sandbox it returns at once.
        """
        if self._streams.get(book, 0) >= MOST_IN_FLIGHT:
            return
        self._streams[book] = self._streams.get(book, 0) + 1
        try:
            await self._serve(stream, rules, book, log)
        finally:
            self._streams[book] -= 1

    async def _serve(self, stream: ByteStream, rules: Callable[[], Rules], book: AddressBook, log: NetworkLog) -> None:
        received = BufferedByteReceiveStream(stream)
        try:
            while True:
                with anyio.fail_after(IDLE_S):
                    length = int.from_bytes(await received.receive_exactly(2), "big")
                    query = await received.receive_exactly(length)
                reply = await self.answer(query, rules(), book, log, tcp=True)
                with anyio.fail_after(IDLE_S):
                    await stream.send(len(reply).to_bytes(2, "big") + reply)
        except (anyio.IncompleteRead, anyio.EndOfStream, TimeoutError):
            with anyio.move_on_after(_END_S), suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await stream.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async def _fill(
        self,
        reply: dns.message.Message,
        question: dns.message.Message,
        rules: Rules,
        book: AddressBook,
        log: NetworkLog,
    ) -> None:
        if question.opcode() != dns.opcode.QUERY:
            reply.set_rcode(dns.rcode.NOTIMP)
            return
        if len(question.question) != 1:
            reply.set_rcode(dns.rcode.FORMERR)
            return
        asked = question.question[0]
        name, kind = asked.name, asked.rdtype
        if asked.rdclass != dns.rdataclass.IN:
            reply.set_rcode(dns.rcode.REFUSED)
            return
        text = name.to_text(omit_final_dot=True).lower()
        verdict = rules.name(text)
        if not verdict.allowed:
            log.record(allowed=False, protocol="dns", host=text, port=_PORT, reason=verdict.reason)
            reply.set_rcode(dns.rcode.REFUSED)
        elif kind != dns.rdatatype.A and kind not in _EMPTY | _PASSED:
            reply.set_rcode(dns.rcode.NOTIMP)
        elif kind == dns.rdatatype.PTR and not _may_be_named(name, rules):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif kind not in _EMPTY:
            found = await self._found(name, kind, book)
            if found is None:
                reply.set_rcode(dns.rcode.SERVFAIL)
                return
            reply.set_rcode(found.rcode())
            reply.answer = _chain(found, kind)
            if kind == dns.rdatatype.A:
                _admit(reply, text, rules, book, log)

    async def _found(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, book: AddressBook
    ) -> dns.message.Message | None:
        """Ask the name server; None if it gives no answer, or too many questions of the sandbox wait already."""
        waiting = self._in_flight.get(book, 0)
        if waiting >= MOST_IN_FLIGHT:
            return None
        self._in_flight[book] = waiting + 1
        if book not in self._places:
            self._places[book] = Places(MOST_ASKED, self._place_s)
        try:
            async with self._places[book].one():
                return await self._upstream.ask(name, kind)
        except NoAnswer:
            return None
        finally:
            self._in_flight[book] -= 1


def _malformed(query: bytes) -> bytes:
    """Answer a message that cannot be read: its id, and "format error"."""
    flags = dns.flags.QR | (int.from_bytes(query[2:4].ljust(2, b"\0"), "big") & dns.flags.RD)
    return query[:2].ljust(2, b"\0") + (flags | dns.rcode.FORMERR).to_bytes(2, "big") + bytes(8)


def _may_be_named(name: dns.name.Name, rules: Rules) -> bool:
    """Tell whether a reverse lookup is for an address that may be reached: names of others tell about the host."""
    try:
        return rules.answer(IPv4Address(dns.reversename.to_address(name))).allowed
    except (dns.exception.DNSException, AddressValueError, ValueError):
        return False


def _chain(found: dns.message.Message, kind: dns.rdatatype.RdataType) -> list[dns.rrset.RRset]:
    """Return the records that answer the question: aliases in their order, then what was asked for."""
    try:
        chain = found.resolve_chaining() if isinstance(found, dns.message.QueryMessage) else None
    except dns.exception.DNSException:  # a loop, or too long
        return []
    if chain is None:
        return []
    records = [*chain.cnames, *([chain.answer] if chain.answer is not None else [])]
    for record in records:
        record.ttl = min(record.ttl, LONGEST_S)
    return [record for record in records if record.rdtype in {kind, dns.rdatatype.CNAME}]


def _admit(reply: dns.message.Message, name: str, rules: Rules, book: AddressBook, log: NetworkLog) -> None:
    """Take out the addresses that may not be reached, and note the others under the name that was asked for."""
    refusals: list[str] = []
    admitted = 0
    for record in reply.answer:
        if record.rdtype != dns.rdatatype.A:
            continue
        for data in cast("list[A]", list(record)):  # pyright: ignore[reportUnknownArgumentType]
            address = IPv4Address(data.address)
            verdict = rules.answer(address)
            if verdict.allowed:
                admitted += 1
                book.add(name, address, record.ttl)
            else:
                refusals.append(verdict.reason)
                record.remove(data)  # pyright: ignore[reportUnknownMemberType]
    if refusals and not admitted:
        reply.answer = []
        reply.set_rcode(dns.rcode.NXDOMAIN)
        log.record(allowed=False, protocol="dns", host=name, port=_PORT, reason=refusals[0])
    elif admitted and rules.policy.mode is Mode.LEARN:  # a name without an address leads nowhere
        log.record(allowed=True, protocol="dns", host=name, port=_PORT)
