"""The name servers that the host itself uses, asked for sandboxes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver

ANSWER_S = 5.0
"""Seconds for the whole of a question, whichever servers it goes to."""
PLACE_S = 2.0
"""Seconds that a question may wait until fewer others are asked."""
AT_ONCE = 1024
"""Questions of all sandboxes at once: each takes a socket."""

_ROUNDS = (0.3, 0.7)
"""Of the whole time: most questions are answered at once, and the others need an answer that comes late."""
_DNS = 53
_PAYLOAD = 1232  # bytes of an answer that is not fragmented on its way: DNS flag day 2020
_RESOLV_CONF = Path("/etc/resolv.conf")

Server = tuple[str, int]


class NoAnswer(Exception):
    """No name server gave a usable answer in time."""


class Places:
    """Lets so many questions be asked at once, and others wait for a while.

    Args:
        count: Questions at once.
        wait_s: Seconds that another one may wait.
    """

    def __init__(self, count: int, wait_s: float) -> None:
        self._free = anyio.Semaphore(count)
        self._wait_s = wait_s

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[None]:
        """Hold a place.

        Raises:
            NoAnswer: None became free in time.
        """
        try:
            with anyio.fail_after(self._wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise NoAnswer from None
        try:
            yield
        finally:
            self._free.release()


class Upstream:
    """Asks the host's name servers, over UDP, and over TCP where an answer does not fit.

    Args:
        servers: Address and port of each, asked for every question; by default those in resolv.conf.
        answer_s: Seconds for one question, from when it is asked.
        at_once: Questions at the same time; more wait.
        place_s: Seconds that one may wait before it is asked.
    """

    def __init__(
        self,
        servers: Callable[[], tuple[Server, ...]] | None = None,
        *,
        answer_s: float = ANSWER_S,
        at_once: int = AT_ONCE,
        place_s: float = PLACE_S,
    ) -> None:
        self._servers = servers or ResolvConf()
        self._answer_s = answer_s
        self._places = Places(at_once, place_s)

    async def ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.message.Message:
        """Ask one question, the servers in turn, and each of them again, as UDP loses packets.

        Raises:
            NoAnswer: None of them gave a usable answer in time.
        """
        async with self._places.one():
            servers = self._servers()
            for share in _ROUNDS:
                for server in servers:
                    with anyio.move_on_after(self._answer_s * share / len(servers)):
                        if (answer := await self._asked(name, kind, server)) is not None:
                            return answer
        raise NoAnswer

    async def _asked(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, server: Server
    ) -> dns.message.Message | None:
        """Ask one server; None if its answer is of no use."""
        host, port = server
        # A fresh id and socket for each question, so that a forged answer has to guess both.
        question = dns.message.make_query(name, kind, use_edns=0, payload=_PAYLOAD)
        try:
            answer, _ = await dns.asyncquery.udp_with_fallback(
                question, host, port=port, timeout=self._answer_s, ignore_unexpected=True, ignore_errors=True
            )
        except (dns.exception.DNSException, OSError, EOFError, ValueError):
            return None
        return answer if answer.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN} else None


class ResolvConf:
    """Reads name servers from a file in the format of resolv.conf(5), again whenever it has changed."""

    def __init__(self, path: Path = _RESOLV_CONF) -> None:
        self._path = path
        self._state: tuple[int, int, int] | None = None
        self._known: tuple[Server, ...] = ()

    def __call__(self) -> tuple[Server, ...]:
        """Return the servers; none if there is no such file."""
        try:
            status = self._path.stat()
            state = (status.st_mtime_ns, status.st_ino, status.st_size)
            if state != self._state:
                self._known, self._state = self._read(), state
        except OSError:
            self._known, self._state = (), None
        return self._known

    def _read(self) -> tuple[Server, ...]:
        resolver = dns.resolver.Resolver(configure=False)
        try:
            resolver.read_resolv_conf(str(self._path))  # pyright: ignore[reportUnknownMemberType]
        except dns.resolver.NoResolverConfiguration:
            return ()
        return tuple((str(server), _DNS) for server in resolver.nameservers)
