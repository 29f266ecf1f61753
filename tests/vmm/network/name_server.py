"""A name server on the loopback, over UDP and TCP, whose answers a test decides."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
from anyio.abc import SocketAttribute, SocketStream

LOOPBACK = "127.0.0.1"

Changed = Callable[[dns.message.Message, bool], Sequence[bytes]]
"""Gives the messages to send for an answer, and whether it goes over UDP."""


def usual(answer: dns.message.Message, udp: bool) -> Sequence[bytes]:
    """Send the answer, cut if it does not fit."""
    return [answer.to_wire(max_size=1232 if udp else 65535, prefer_truncation=True)]


class NameServer:
    """Answers from a zone.

    Attributes:
        zone: Lines such as "www.example.com. 60 IN A 198.51.100.7", by their names; a name that is not there is
            unknown.
        asked: Names, types and whether it was over UDP.
        changed: What is sent in place of an answer.
        hold: Nothing is answered before this is set.
    """

    def __init__(self) -> None:
        self.zone: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str, bool]] = []
        self.changed: Changed = usual
        self.hold = anyio.Event()
        self.hold.set()
        self.port = 0

    def add(self, *lines: str) -> None:
        for line in lines:
            self.zone.setdefault(line.split()[0], []).append(line)

    def servers(self) -> tuple[tuple[str, int], ...]:
        return ((LOOPBACK, self.port),)

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """Answer with the records of the name, and of those that it is an alias of."""
        reply = dns.message.make_response(query, recursion_available=True)
        asked = query.question[0]
        kind, name = asked.rdtype.name, asked.name.to_text().lower()
        reply.set_rcode(dns.rcode.NOERROR if name in self.zone else dns.rcode.NXDOMAIN)
        followed: set[str] = set()
        while name in self.zone and name not in followed:
            followed.add(name)
            following = ""
            for line in self.zone[name]:
                _, ttl, _, found, value = line.split(maxsplit=4)
                if found == kind or (found == "CNAME" and kind != "CNAME"):
                    reply.find_rrset(
                        reply.answer,
                        dns.name.from_text(name),
                        dns.rdataclass.IN,
                        dns.rdatatype.from_text(found),
                        create=True,
                    ).add(dns.rdata.from_text(dns.rdataclass.IN, found, value), int(ttl))
                    following = value if found == "CNAME" else ""
            name = following
        return reply

    async def replies(self, wire: bytes, *, udp: bool) -> Sequence[bytes]:
        query = dns.message.from_wire(wire)
        asked = query.question[0]
        self.asked.append((asked.name.to_text(omit_final_dot=True).lower(), asked.rdtype.name, udp))
        await self.hold.wait()
        return self.changed(self.answer(query), udp)


@asynccontextmanager
async def name_server() -> AsyncGenerator[NameServer]:
    made = NameServer()
    listener = await anyio.create_tcp_listener(local_host=LOOPBACK, local_port=0)
    made.port = listener.extra(SocketAttribute.local_port)

    async def handle(stream: SocketStream) -> None:
        async with stream:
            received = b""
            while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
                try:
                    received += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
            for reply in await made.replies(received[2:], udp=False):
                await stream.send(len(reply).to_bytes(2, "big") + reply)

    async with (
        listener,
        await anyio.create_udp_socket(local_host=LOOPBACK, local_port=made.port) as udp,
        anyio.create_task_group() as tasks,
    ):
        one_at_a_time = anyio.Lock()

        async def reply_to(wire: bytes, asker: tuple[str, int]) -> None:
            for reply in await made.replies(wire, udp=True):
                async with one_at_a_time:
                    await udp.sendto(reply, *asker)

        async def datagrams() -> None:
            async for wire, asker in udp:
                tasks.start_soon(reply_to, wire, asker)

        tasks.start_soon(listener.serve, handle)
        tasks.start_soon(datagrams)
        try:
            yield made
        finally:
            tasks.cancel_scope.cancel()
