"""Calls about where a sandbox may connect to, and where it did. None of them wakes it."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from ..network.explain import refusals
from ..network.gateway import Gateway
from ..network.log import NetworkLog
from ..network.policy import Policy
from ..sandboxes.sandbox import Sandbox
from .ownership import Ownership

Told = WeakKeyDictionary[NetworkLog, int]
"""The newest event of each log that a result has explained."""


class SandboxNetwork:
    """What one sandbox may reach, and what it has tried.

    Attributes:
        way: How it reaches the network: "taps" or "user mode".
        address: Its address while it runs, if it has a device; another one after a sleep.
        log: Its recent destinations.
        own: Whether the sandbox has a policy of its own, instead of the operator's.

    Args:
        sandbox: The record.
        gateway: The way of all sandboxes to the network.
        told: What results have explained.
    """

    def __init__(self, sandbox: Sandbox, gateway: Gateway, told: Told) -> None:
        found = gateway.way_of(sandbox.id)
        self.way = found.kind
        self.address = found.address
        self._text = sandbox.network
        self._gateway = gateway
        self._told = told
        self.log = gateway.log(sandbox.id)
        self.own = bool(sandbox.network)
        self._began = self.log.number

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._gateway.policy(self._text)

    def destinations(self, *, allowed: bool, most: int) -> list[str]:
        """List its last destinations, newest first, each once: example.com:443, or a name that was looked up."""
        found: dict[str, None] = {}
        for event in reversed(self.log.last(self.log.number, allowed=allowed)):
            found.setdefault(event.destination)
        return list(found)[:most]

    def refusals(self) -> str:
        """Explain what was refused since this look began, a line for each destination; empty if nothing was."""
        return self._explained(self._began)

    def untold(self) -> str:
        """Explain what was refused since a result explained anything of this sandbox."""
        return self._explained(self._told.get(self.log, 0))

    def _explained(self, after: int) -> str:
        if self.log.number <= after:
            return ""
        if self._told.get(self.log, 0) >= after:  # else there is something older that nobody knows
            self._told[self.log] = self.log.number
        refused = [event for event in self.log.since(after) if not event.allowed]
        return refusals(refused, self.policy) if refused else ""


class NetworkCalls:
    """What an owner may know of the network of a sandbox.

    Args:
        ownership: Finds the owner's sandboxes.
        gateway: The way of all sandboxes to the network.
    """

    def __init__(self, *, ownership: Ownership, gateway: Gateway) -> None:
        self._ownership = ownership
        self._gateway = gateway
        self._told: Told = WeakKeyDictionary()

    @property
    def default(self) -> Policy:
        """The operator's policy, of sandboxes that have none of their own."""
        return self._gateway.default

    @property
    def way(self) -> str:
        """How most sandboxes of this host reach the network: "taps" or "user mode"."""
        return self._gateway.way_of("").kind

    async def get(self, owner: str, ref: str) -> SandboxNetwork:
        """Look at the network of one sandbox, by id or name.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: Several sandboxes have the name; the message lists their ids.
        """
        return self.of(await self._ownership.get(owner, ref))

    def of(self, sandbox: Sandbox) -> SandboxNetwork:
        """Look at the network of a sandbox that was found for its owner."""
        return SandboxNetwork(sandbox, self._gateway, self._told)

    def counts(self) -> tuple[int, int]:
        """Count what all sandboxes were allowed and refused since the server's start."""
        return self._gateway.counts()
