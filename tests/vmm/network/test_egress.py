"""A sandbox's connections: decided before anything is dialled, named where the policy needs it, ended by a new one."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import AsyncGenerator, Collection, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskGroup
from anyio.streams.tls import TLSStream

from tests.vmm.network.hellos import hello, with_extension
from tests.vmm.network.programs import LOOPBACK, Program, World, certificate, echo, program, serving, tcp_pair
from tests.waiting import PATIENCE_S, until
from vmm.errors import Conflict
from vmm.network.addresses import AddressBook
from vmm.network.egress import Egress, EgressRefused, Unreachable
from vmm.network.log import NetworkLog
from vmm.network.policy import Policy
from vmm.network.rules import HostRules, Rules, Verdict
from vmm.network.tcp import TcpStream, dial

pytestmark = pytest.mark.anyio

SHARED = IPv4Address("198.51.100.10")
"""The address of example.com and example.org."""
OTHER = IPv4Address("192.0.2.1")
HERE = IPv4Address(LOOPBACK)
LOOPBACKS = HostRules(opened=(IPv4Network("127.0.0.0/8"),))


class Sandbox:
    """One sandbox's way out, with programs of its guest."""

    def __init__(self, tasks: TaskGroup, policy: str, world: World | None, limit: int) -> None:
        self.rules = Rules(Policy.parse(policy), LOOPBACKS)
        self.book = AddressBook()
        self.log = NetworkLog(lambda: 0)
        self.world = world or World({})
        connect = self.world.connect if world else dial
        self.egress = Egress(lambda: self.rules, self.book, self.log, connect, limit, dial_s=0.1, name_s=0.3)
        self.ends: list[str] = []
        self._tasks = tasks
        self.book.add("example.com", SHARED, 60)
        self.book.add("example.org", SHARED, 60)

    @asynccontextmanager
    async def opens(self, address: IPv4Address, port: int) -> AsyncGenerator[Program]:
        """A program that connects; the gateway's part in it is done here."""
        async with program() as made:

            async def run() -> None:
                try:
                    await self.egress.run(address, port, made.take)
                    self.ends.append("")
                except EgressRefused as refusal:
                    await made.refuse()
                    self.ends.append(refusal.reason)

            self._tasks.start_soon(run)
            with anyio.fail_after(PATIENCE_S):
                yield made

    def becomes(self, policy: str) -> int:
        self.rules = Rules(Policy.parse(policy), LOOPBACKS)
        return self.egress.recheck()

    def events(self) -> list[tuple[bool, str, int, str]]:
        return [(event.allowed, event.host, event.port, event.reason) for event in self.log.last(100)]

    async def end(self) -> str:
        """Wait until a connection has ended; why it was refused."""
        await until(lambda: self.ends)
        return self.ends[-1]

    async def is_empty(self) -> None:
        await until(lambda: not len(self.egress))


@asynccontextmanager
async def sandbox(policy: str, world: World | None = None, limit: int = 512) -> AsyncGenerator[Sandbox]:
    async with anyio.create_task_group() as tasks:
        yield Sandbox(tasks, policy, world, limit)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def echoing(*ports: int) -> AsyncGenerator[World]:
    async with serving(echo) as port:
        yield World(dict.fromkeys(ports, port))


async def answers(connection: Program) -> bool:
    await connection.stream.send(b"hello?")
    return await connection.stream.receive() == b"hello?"


async def test_a_connection_that_the_policy_allows_is_carried_to_its_end() -> None:
    async with echoing(443) as world, sandbox("internet", world) as box:
        async with box.opens(OTHER, 443) as connection:
            await connection.stream.send(b"hello")
            await connection.stream.send_eof()
            assert await connection.everything() == b"hello"
        await box.is_empty()
        assert world.dialled == [(str(OTHER), 443)]
        assert box.events() == [(True, str(OTHER), 443, "")]
        assert await box.end() == ""


@pytest.mark.parametrize(
    ("policy", "address", "reason"),
    [
        ("none", OTHER, 'policy "none"'),
        ("packages", OTHER, 'policy "packages"'),
        ("198.51.100.0/24", OTHER, 'policy "allow"'),
        ("internet", IPv4Address("10.0.0.1"), "private address 10.0.0.1"),
        ("internet", IPv4Address("169.254.169.254"), "link-local address 169.254.169.254"),
        ("learn", IPv4Address("192.168.1.1"), "private address 192.168.1.1"),
    ],
)
async def test_a_refused_connection_is_reset_and_nothing_is_dialled(
    policy: str, address: IPv4Address, reason: str
) -> None:
    async with echoing(443) as world, sandbox(policy, world) as box:
        async with box.opens(address, 443) as connection:
            assert await connection.is_reset()
            assert connection.taken == 0
        assert world.dialled == []
        assert box.events() == [(False, str(address), 443, reason)]
        assert await box.end() == reason


async def test_a_refusal_names_what_the_program_asked_the_resolver_for() -> None:
    async with sandbox("*.example.net", World({})) as box:
        async with box.opens(SHARED, 22) as connection:
            assert await connection.is_reset()
        assert box.events() == [(False, "example.com", 22, 'policy "allow"')]


async def test_a_name_opens_other_ports_without_being_announced() -> None:
    async with echoing(22) as world, sandbox("example.org", world) as box:
        async with box.opens(SHARED, 22) as connection:
            assert await answers(connection)
        assert box.events() == [(True, "example.org", 22, "")]


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize(
    ("first", "host", "reason"),
    [
        (hello("example.org"), "example.org", 'policy "allow"'),
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "example.org", 'policy "allow"'),
        (b"\r\nGET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "example.org", 'policy "allow"'),
        (
            b"FETCH / HTTP/1.1\r\nHost: example.org\r\n\r\n",
            "example.com",
            'policy "allow", which needs a name in Host or SNI: it sent no request of HTTP/1',
        ),
    ],
    ids=["tls", "http", "http-after-a-blank-line", "unknown-method"],
)
async def test_another_port_of_a_shared_address_does_not_open_its_neighbours(
    first: bytes, host: str, reason: str, size: int
) -> None:
    received = bytearray()

    async def listen(stream: ByteStream) -> None:
        while True:
            received.extend(await stream.receive())

    async with serving(listen) as port, sandbox("example.com", World({8443: port})) as box:
        async with box.opens(SHARED, 8443) as connection:
            with suppress(anyio.BrokenResourceError):  # it is reset as soon as the name is certain
                for start in range(0, len(first), size):
                    await connection.stream.send(first[start : start + size])
                assert await connection.is_reset()
        assert await box.end() == reason
        assert not received.strip()
        assert box.events() == [(True, "example.com", 8443, ""), (False, host, 8443, reason)]


@pytest.mark.parametrize(
    "first",
    [hello("example.com"), b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", b"*1\r\n$4\r\nPING\r\n"],
    ids=["tls", "http", "redis"],
)
async def test_another_port_is_open_for_the_allowed_name_and_for_what_announces_none(first: bytes) -> None:
    async with echoing(8443) as world, sandbox("example.com", world) as box:
        async with box.opens(SHARED, 8443) as connection:
            for byte in first:
                await connection.stream.send(bytes([byte]))
            received = b""
            while len(received) < len(first):
                received += await connection.stream.receive()
            assert received == first
        assert box.events() == [(True, "example.com", 8443, "")]


async def test_a_server_may_speak_first_on_another_port() -> None:
    async def greet(stream: ByteStream) -> None:
        await stream.send(b"220 example.com\r\n")
        await echo(stream)

    async with (
        serving(greet) as port,
        sandbox("example.com", World({25: port})) as box,
        box.opens(SHARED, 25) as connection,
    ):
        assert await connection.stream.receive() == b"220 example.com\r\n"
        await connection.stream.send(b"EHLO example.org\r\n")
        assert await connection.stream.receive() == b"EHLO example.org\r\n"


async def test_what_might_have_become_a_request_arrives_when_the_program_ends() -> None:
    async with echoing(9000) as world, sandbox("example.com", world) as box, box.opens(SHARED, 9000) as connection:
        await connection.stream.send(b"GET")
        await connection.stream.send_eof()
        assert await connection.everything() == b"GET"


async def test_a_new_policy_is_told_the_names_on_other_ports_too() -> None:
    async with (
        echoing(8443) as world,
        sandbox("example.com, example.org", world) as box,
        box.opens(SHARED, 8443) as one,
        box.opens(SHARED, 8443) as other,
    ):
        for connection, name in ((one, "example.com"), (other, "example.org")):
            await connection.stream.send(hello(name))
            assert await connection.stream.receive()
        assert box.events()[-1] == (True, "example.org", 8443, "")
        assert box.becomes("example.org") == 1
        assert await one.is_reset()
        assert await answers(other)


async def test_an_address_of_the_allow_list_needs_no_name() -> None:
    async with echoing(443) as world, sandbox("198.51.100.0/24", world) as box, box.opens(SHARED, 443) as connection:
        assert await answers(connection)


async def test_a_connection_that_announces_an_allowed_name_is_carried() -> None:
    async with echoing(443) as world, sandbox("example.com", world) as box:
        async with box.opens(SHARED, 443) as connection:
            greeting = hello("example.com")
            for byte in range(0, len(greeting), 100):
                await connection.stream.send(greeting[byte : byte + 100])
            received = b""
            while len(received) < len(greeting):
                received += await connection.stream.receive()
            assert received == greeting
            assert await answers(connection)
        assert box.events() == [(True, "example.com", 443, "")]


NEEDED = 'policy "allow", which needs a name in Host or SNI: it sent'


@pytest.mark.parametrize(
    ("port", "first", "host", "reason"),
    [
        (443, hello("example.org"), "example.org", 'policy "allow"'),
        (443, hello("neighbour.example.net"), "neighbour.example.net", 'policy "allow"'),
        (443, hello(None), "example.com", f"{NEEDED} a TLS ClientHello without a server name (SNI)"),
        (
            443,
            with_extension(hello("example.com"), 0xFE0D, bytes(100)),
            "example.com",
            f"{NEEDED} an encrypted ClientHello (ECH), which may hide another name",
        ),
        (443, b"SSH-2.0-example\r\n", "example.com", f"{NEEDED} no request of HTTP/1"),
        (80, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "example.org", 'policy "allow"'),
        (80, b"GET http://example.org/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "example.org", 'policy "allow"'),
        (80, b"GET / HTTP/1.0\r\n\r\n", "example.com", f"{NEEDED} a request without Host"),
        (80, hello("example.org"), "example.org", 'policy "allow"'),
        (443, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "example.org", 'policy "allow"'),
    ],
    ids=lambda value: "sent" if isinstance(value, bytes) else None,
)
async def test_a_shared_address_does_not_open_its_neighbours(port: int, first: bytes, host: str, reason: str) -> None:
    async with echoing(80, 443) as world, sandbox("example.com", world) as box:
        async with box.opens(SHARED, port) as connection:
            await connection.stream.send(first)
            assert await connection.is_reset()
        assert world.dialled == []
        assert box.events() == [(False, host, port, reason)]
        await box.is_empty()


async def test_an_allowed_name_opens_no_address_that_the_resolver_did_not_give() -> None:
    async with echoing(443) as world, sandbox("example.com", world) as box:
        async with box.opens(OTHER, 443) as connection:
            assert await connection.is_reset()
            assert connection.taken == 0
        assert world.dialled == []


async def test_a_program_that_says_nothing_is_refused_after_a_while() -> None:
    async with echoing(443) as world, sandbox("example.com", world) as box:
        async with box.opens(SHARED, 443) as connection:
            assert await connection.is_reset()
        assert await box.end() == f"{NEEDED} none within 0.3 s"
        assert world.dialled == []


async def test_a_program_that_goes_without_a_word_is_no_refusal() -> None:
    async with echoing(443) as world, sandbox("example.com", world) as box:
        async with box.opens(SHARED, 443) as connection:
            await connection.stream.send_eof()
            assert await connection.everything() == b""
        await box.is_empty()
        assert world.dialled == []
        assert box.events() == []
        assert await box.end() == ""


async def test_a_program_that_ends_within_a_name_is_refused() -> None:
    async with echoing(443) as world, sandbox("example.com", world) as box:
        async with box.opens(SHARED, 443) as connection:
            await connection.stream.send(hello("example.com")[:50])
            await connection.stream.send_eof()
            assert await connection.is_reset()
        assert await box.end() == f"{NEEDED} none before its end"


async def test_a_later_request_for_another_host_ends_the_connection() -> None:
    async with echoing(80) as world, sandbox("example.com, www.example.com", world) as box:
        box.book.add("www.example.com", SHARED, 60)
        async with box.opens(SHARED, 80) as connection:
            for host in (b"example.com", b"www.example.com", b"example.com"):
                request = b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
                await connection.stream.send(request)
                assert await connection.stream.receive() == request
            await connection.stream.send(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
            assert await connection.is_reset()
        assert box.events() == [
            (True, "example.com", 80, ""),
            (True, "www.example.com", 80, ""),
            (False, "example.org", 80, 'policy "allow"'),
        ]


async def test_a_destination_that_refuses_is_not_reachable_and_not_refused() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
    async with sandbox("internet") as box:
        async with box.opens(HERE, port) as connection:
            assert await connection.is_reset()
            assert connection.taken == 0
        assert box.events() == [(True, LOOPBACK, port, "not reachable: connection refused")]
        assert box.log.refused == 0


async def test_a_destination_that_does_not_answer_is_given_up() -> None:
    with full_server() as port:
        async with sandbox("internet") as box, box.opens(HERE, port) as connection:
            assert await connection.is_reset()
            assert box.events() == [(True, LOOPBACK, port, "not reachable: no answer within 0.1 s")]


async def test_a_named_connection_whose_destination_refuses_is_reset() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        world = World({443: server.getsockname()[1]})
    async with sandbox("example.com", world) as box:
        async with box.opens(SHARED, 443) as connection:
            await connection.stream.send(hello("example.com"))
            assert await connection.is_reset()
        assert box.events() == [(True, "example.com", 443, "not reachable: connection refused")]


async def test_an_error_of_the_gateway_tells_what_kind_it_is() -> None:
    egress = Egress(lambda: Rules(Policy.parse("internet"), LOOPBACKS), AddressBook(), NetworkLog(lambda: 0))
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
    async with program() as made:
        with pytest.raises(Unreachable):
            await egress.run(HERE, port, made.take)


async def test_a_program_that_has_closed_its_connection_meanwhile_is_no_error() -> None:
    @asynccontextmanager
    async def gone() -> AsyncGenerator[ByteStream]:
        raise Conflict("The connection was closed")
        yield  # pragma: no cover

    async with echoing(22, 443) as world, sandbox("example.com", world) as box:
        await box.egress.run(SHARED, 22, gone)
        await box.egress.run(SHARED, 443, gone)
        assert len(box.egress) == 0


async def test_a_new_policy_ends_the_connections_that_it_does_not_allow() -> None:
    async with echoing(22, 25) as world, sandbox("internet", world) as box:
        async with box.opens(SHARED, 22) as kept, box.opens(OTHER, 22) as ended, box.opens(SHARED, 25) as late:
            assert await answers(kept)
            assert await answers(ended)
            assert await answers(late)
            assert box.becomes("example.com, 22/tcp") == 2
            assert await ended.is_reset()
            assert await late.is_reset()
            assert await answers(kept)
            assert box.becomes("none") == 1
            assert await kept.is_reset()
        await box.is_empty()
        assert sorted(event for event in box.events() if not event[0]) == [
            (False, "192.0.2.1", 22, 'policy "allow"'),
            (False, "example.com", 22, 'policy "none"'),
            (False, "example.com", 25, 'policy "allow"'),
        ]


class Broken(Rules):
    """Rules that cannot judge one address."""

    def connection(self, address: IPv4Address, port: int, names: Collection[str]) -> Verdict:
        if address == OTHER:
            raise OSError("too many open files")
        return super().connection(address, port, names)


async def test_what_cannot_be_judged_is_refused_and_the_others_are_judged() -> None:
    async with echoing(22) as world, sandbox("internet", world) as box:
        async with box.opens(OTHER, 22) as one, box.opens(SHARED, 22) as other, box.opens(OTHER, 22) as third:
            for connection in (one, other, third):
                assert await answers(connection)
            box.rules = Broken(Policy.parse("none"), LOOPBACKS)
            assert box.egress.recheck() == 3
            for connection in (one, other, third):
                assert await connection.is_reset()
            async with box.opens(OTHER, 22) as late:
                assert await late.is_reset()
        assert {event[3] for event in box.events() if not event[0] and event[1] == str(OTHER)} == {
            "error: the server cannot tell whether it is allowed"
        }


async def test_a_server_sees_that_a_connection_was_broken_off_by_a_new_policy() -> None:
    ends: list[type[Exception]] = []

    async def listen(stream: ByteStream) -> None:
        try:
            await echo(stream)
        except Exception as error:
            ends.append(type(error))
            raise

    async with serving(listen) as port, sandbox("internet", World({22: port})) as box, box.opens(OTHER, 22) as ended:
        assert await answers(ended)
        assert box.becomes("none") == 1
        await until(lambda: ends)
    assert ends == [anyio.BrokenResourceError]


async def test_a_new_policy_is_told_the_names_that_a_connection_announced() -> None:
    async with (
        echoing(443) as world,
        sandbox("example.com, example.org", world) as box,
        box.opens(SHARED, 443) as one,
        box.opens(SHARED, 443) as other,
    ):
        for connection, name in ((one, "example.com"), (other, "example.org")):
            await connection.stream.send(hello(name))
            assert await connection.stream.receive()
        assert box.becomes("example.org") == 1
        assert await one.is_reset()
        assert await answers(other)
        assert box.becomes("internet") == 0


async def test_a_connection_whose_name_nobody_saw_ends_when_names_begin_to_count() -> None:
    async with echoing(443) as world, sandbox("internet", world) as box, box.opens(SHARED, 443) as connection:
        assert await answers(connection)
        assert box.becomes("example.com") == 1
        assert await connection.is_reset()


async def test_a_policy_that_changes_before_the_name_comes_decides_about_it() -> None:
    async with echoing(443) as world, sandbox("example.com", world) as box:
        async with box.opens(SHARED, 443) as connection:
            await until(lambda: connection.taken)
            assert box.becomes("example.org") == 0
            await connection.stream.send(hello("example.com"))
            assert await connection.is_reset()
        assert world.dialled == []


async def test_a_sandbox_has_so_many_connections_and_no_more() -> None:
    async with (
        echoing(22) as world,
        sandbox("internet", world, limit=2) as box,
        box.opens(OTHER, 22) as one,
        box.opens(OTHER, 22) as two,
    ):
        assert await answers(one)
        assert await answers(two)
        async with box.opens(OTHER, 22) as three:
            assert await three.is_reset()
        assert await box.end() == "limit: 2 connections of this sandbox are open"
        await one.stream.send_eof()
        assert await one.everything() == b""
        await until(lambda: len(box.egress) == 1)
        async with box.opens(OTHER, 22) as four:
            assert await answers(four)


async def test_a_real_tls_client_and_server_talk_through_it(tmp_path: Path) -> None:
    made, key = certificate(tmp_path, "example.com", "example.org")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made, key)

    async def secured(stream: ByteStream) -> None:
        tls = await TLSStream.wrap(stream, server_side=True, ssl_context=context, standard_compatible=False)
        await tls.send(b"secured: " + await tls.receive())
        await tls.aclose()

    trusting = ssl.create_default_context(cafile=made)
    async with serving(secured) as port, sandbox("example.com", World({443: port})) as box:
        async with box.opens(SHARED, 443) as connection:
            client = await TLSStream.wrap(
                connection.stream, hostname="example.com", ssl_context=trusting, standard_compatible=False
            )
            await client.send(b"hello")
            assert await client.receive() == b"secured: hello"
        async with box.opens(SHARED, 443) as connection:
            with pytest.raises(anyio.BrokenResourceError):
                await TLSStream.wrap(
                    connection.stream, hostname="example.org", ssl_context=trusting, standard_compatible=False
                )


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
async def test_curl_gets_what_is_allowed_and_a_reset_for_the_rest() -> None:
    async def respond(stream: ByteStream) -> None:
        while True:
            request = await stream.receive()
            host = request.partition(b"Host: ")[2].partition(b"\r\n")[0]
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(host), host))

    async with serving(respond) as port, sandbox("*.example.com", World({80: port})) as box:
        box.book.add("www.example.com", SHARED, 60)
        async with caught(box) as front:
            urls = ["http://www.example.com/a", "http://api.example.com/b", "http://example.com/"]
            command = ["curl", "--silent", "--noproxy", "*", "--connect-to", f"::127.0.0.1:{front}", *urls]
            done = await anyio.run_process(command, check=False)
    assert done.stdout == b"www.example.comapi.example.com"
    assert done.returncode == 56  # failure in receiving: the connection was reset
    assert [event[:2] for event in box.events()][-1] == (False, "example.com")


@asynccontextmanager
async def caught(box: Sandbox) -> AsyncGenerator[int]:
    """A port whose connections are taken for ones to port 80 of the shared address, as the guest redirects them."""
    listener = await anyio.create_tcp_listener(local_host=LOOPBACK, local_port=0)

    async def handle(stream: SocketStream) -> None:
        @asynccontextmanager
        async def take() -> AsyncGenerator[ByteStream]:
            async with stream:
                yield stream

        try:
            await box.egress.run(SHARED, 80, take)
        except EgressRefused:
            return

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def test_a_stream_that_was_closed_says_so() -> None:
    own, other = tcp_pair()
    stream = TcpStream(own)
    other.close()
    await stream.aclose()
    await stream.aclose()
    for use in (stream.receive, stream.send_eof):
        with pytest.raises(anyio.ClosedResourceError):
            await use()


@contextmanager
def full_server() -> Generator[int]:
    """A server on the loopback that accepts nothing, and whose queue is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind((LOOPBACK, 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield int(server.getsockname()[1])
