"""The way of all sandboxes of a host to the network: each one's policy, and what it connected to."""

from __future__ import annotations

from collections.abc import Callable

from .log import NetworkLog
from .policy import Policy
from .rules import HostRules


class Gateway:
    """Decides for all sandboxes of a host where they may connect to.

    Attributes:
        default: The policy of sandboxes that name none.

    Args:
        default: The same.
        host: The operator's rules, asked whenever a policy begins to apply.
        clock: Milliseconds since the epoch.
    """

    def __init__(self, *, default: Policy, host: Callable[[], HostRules], clock: Callable[[], int]) -> None:
        self.default = default
        self._host = host
        self._clock = clock
        self._logs: dict[str, NetworkLog] = {}
        self._past = (0, 0)

    def policy(self, network: str) -> Policy:
        """Return the policy that a sandbox's record names; the default if it names none."""
        return Policy.parse(network) if network else self.default

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

    async def changed(self, sandbox_id: str, network: str) -> None:
        """Apply a sandbox's new policy text, to its open connections, too."""

    def forget(self, sandbox_id: str) -> None:
        """Drop what is known of a sandbox that was deleted."""
        log = self._logs.pop(sandbox_id, None)
        if log is not None:
            allowed, refused = self._past
            self._past = (allowed + log.allowed, refused + log.refused)
