"""The way of all sandboxes of a host to the network: each one's policy, and what it connected to."""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

import anyio
import structlog

from ..errors import InvalidInput
from ..guest.link import GuestLink
from ..hypervisor.nic import Nic
from .addresses import AddressBook
from .link_way import LinkWay
from .log import NetworkLog
from .policy import Policy
from .resolver import Resolver
from .rules import HostRules, Rules
from .taps.kernel_log import KernelLog
from .taps.listener import Listener
from .taps.tap_way import TapWay
from .taps.tap_ways import TapNetwork, TapWays
from .tcp import Connect, dial
from .way import NOTHING, Way

log = structlog.get_logger(__name__)

TAPS, USER_MODE = "taps", "user mode"
"""A sandbox has a network device, or the server carries its connections."""

_SHOWN = 5


def _ignore() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class WayOut:
    """How a sandbox reaches the network.

    Attributes:
        kind: TAPS or USER_MODE.
        address: Its own, if it has a tap.
    """

    kind: str
    address: IPv4Address | None = None


class Gateway:
    """Decides for all sandboxes of a host where they may connect to, and connects them.

    Attributes:
        default: The policy of sandboxes that name none.

    Args:
        default: The same.
        host: The operator's rules, asked for every decision.
        clock: Milliseconds since the epoch.
        resolver: Answers the sandboxes' DNS queries; by default one that asks the host's name servers.
        connect: Dials their destinations.
        limit: Connections of all sandboxes at once, each of which takes two files of the server; 0 is a quarter of the
            files that the server may open.
        taps: Tells the kernel what to forward for sandboxes with a tap; None: there are none.
    """

    def __init__(
        self,
        *,
        default: Policy,
        host: Callable[[], HostRules],
        clock: Callable[[], int],
        resolver: Resolver | None = None,
        connect: Connect = dial,
        limit: int = 0,
        taps: TapNetwork | None = None,
    ) -> None:
        self.default = default
        self._host = host
        self._resolver = resolver or Resolver()
        self._connect = connect
        self._clock = clock
        self._logs: dict[str, NetworkLog] = {}
        self._books: dict[str, AddressBook] = {}
        self._ways: dict[str, LinkWay | TapWay] = {}
        self._taps = None if taps is None else TapWays(taps)
        self._limit = limit or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._past = (0, 0)

    def policy(self, network: str) -> Policy:
        """Return the policy that a sandbox's record names; the default if it names none."""
        return Policy.parse(network) if network else self.default

    def check(self, network: str) -> None:
        """Refuse a policy that lists networks which stay denied on this host; the operator's own is not looked at.

        Raises:
            InvalidInput: The message names them.
        """
        if not network:
            return
        closed = Rules(self.policy(network), self._host()).closed()
        if closed:
            shown = ", ".join(str(block) for block in closed[:_SHOWN])
            raise InvalidInput(
                f"network must have no private addresses or addresses of the host, got {shown}",
                hint="The operator can open private networks: CASEMATE_NETWORK_OPEN",
            )

    def log(self, sandbox_id: str) -> NetworkLog:
        """Return a sandbox's recent destinations; the log begins when it is first asked for."""
        if sandbox_id not in self._logs:
            self._logs[sandbox_id] = NetworkLog(self._clock)
        return self._logs[sandbox_id]

    def counts(self) -> tuple[int, int]:
        """Count what was allowed and what was refused since the start, for deleted sandboxes, too."""
        allowed, refused = self._past
        logs = self._logs.values()
        return allowed + sum(log.allowed for log in logs), refused + sum(log.refused for log in logs)

    def way_of(self, sandbox_id: str) -> WayOut:
        """Tell how a sandbox reaches the network; how most of this host do, while it is not served."""
        way = self._ways.get(sandbox_id)
        if way is None:
            return WayOut(kind=TAPS if self._taps else USER_MODE)
        return WayOut(kind=TAPS, address=way.address) if isinstance(way, TapWay) else WayOut(kind=USER_MODE)

    async def changed(self, sandbox_id: str, network: str) -> None:
        """Apply a sandbox's new policy text, to its open connections, too: it is in force when this returns.

        Raises:
            Unavailable: The kernel did not take it; the policy before it applies.
        """
        way = self._ways.get(sandbox_id)
        if way is not None:
            await way.apply(self._understood(sandbox_id, network))

    def forget(self, sandbox_id: str) -> None:
        """Drop what is known of a sandbox that was deleted."""
        self._books.pop(sandbox_id, None)
        log = self._logs.pop(sandbox_id, None)
        if log is not None:
            allowed, refused = self._past
            self._past = (allowed + log.allowed, refused + log.refused)

    async def serve(
        self,
        sandbox_id: str,
        network: Callable[[], Awaitable[str]],
        link: GuestLink,
        nic: Nic | None = None,
        in_force: Callable[[], None] = _ignore,
    ) -> None:
        """Serve what leaves one sandbox until cancelled; open connections end with it.

        Args:
            sandbox_id: The sandbox.
            network: Reads its policy text.
            link: The link to its guest, whose connections may break at any time.
            nic: Its network device with a tap; None: its connections come over the link.
            in_force: Called once its policy applies to all that leaves it; what came before may be lost.

        Raises:
            Unavailable: The kernel did not take its policy; call again.
        """
        shared = Way(
            host=self._host,
            # What a guest was told before it slept it still knows afterwards.
            book=self._books.setdefault(sandbox_id, AddressBook()),
            events=self.log(sandbox_id),
            resolver=self._resolver,
            connect=self._connect,
            room=self._has_room,
        )
        taps = self._taps
        way = LinkWay(shared, link) if nic is None or taps is None else TapWay(shared, nic.address.ip, taps)
        self._ways[sandbox_id] = way

        async def policy() -> Policy:
            return self._understood(sandbox_id, await network())

        try:
            with structlog.contextvars.bound_contextvars(sandbox=sandbox_id):
                await way.serve(policy, in_force)
        finally:
            if self._ways.get(sandbox_id) is way:
                del self._ways[sandbox_id]

    async def serve_taps(self, listener: Listener, kernel: KernelLog) -> None:
        """Serve what comes from the taps until cancelled, and record what the kernel decides by itself.

        Args:
            listener: Takes what the kernel redirects.
            kernel: What it forwards and refuses.
        """
        if self._taps is None:
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._taps.find)
            tasks.start_soon(self._taps.follow, kernel.events())

    def _has_room(self) -> bool:
        return sum(len(way.way.connections) for way in self._ways.values()) < self._limit

    def _understood(self, sandbox_id: str, network: str) -> Policy:
        try:
            return self.policy(network)
        except InvalidInput as error:
            # A later release may have written it. What is not understood must not open anything.
            log.warning("network policy not understood, nothing is allowed", sandbox=sandbox_id, reason=error.message)
            return NOTHING
