"""Calls about published ports: which ports of a sandbox may be opened from outside, and by whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..sandboxes.published import (
    PublishedPort,
    check_listed,
    check_port,
    published_port,
    with_port,
    with_ports_only,
    without_port,
)
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore
from .ownership import Ownership


class PortCalls:
    """What an owner may do with published ports. They are in the sandbox's record, and end with it.

    Args:
        ownership: Finds the owner's sandboxes.
        store: The records of the sandboxes.
        clock: Milliseconds since the epoch.
    """

    def __init__(self, *, ownership: Ownership, store: SandboxStore, clock: Callable[[], int]) -> None:
        self._ownership = ownership
        self._store = store
        self._clock = clock

    async def publish(
        self, owner: str, ref: str, port: int, *, public: bool = False, until_ms: int = 0
    ) -> tuple[Sandbox, PublishedPort]:
        """Publish a port, or change how it is published.

        Args:
            owner: The owner.
            ref: The sandbox's id or name.
            port: The TCP port of the guest.
            public: Whether everybody may open it.
            until_ms: When it stops being public; 0 is never.

        Raises:
            InvalidInput: There is no such port.
            LimitExceeded: The sandbox has published as many ports as it may.
        """
        wanted = PublishedPort(port=check_port(port), public=public, until_ms=until_ms)
        sandbox = await self._change(owner, ref, lambda found: with_port(found, wanted))
        published = published_port(sandbox, port)
        assert published is not None
        return sandbox, published

    async def unpublish(self, owner: str, ref: str, port: int) -> Sandbox:
        """Publish a port no longer: its URLs stop working, even if it is published again.

        Raises:
            InvalidInput: There is no such port.
            NotFound: It is not published.
        """
        check_port(port)
        return await self._change(owner, ref, lambda found: without_port(found, port))

    async def publish_only(self, owner: str, ref: str, ports: Sequence[int]) -> tuple[Sandbox, tuple[int, ...]]:
        """Publish these ports and no others: new ones privately, those that are published as they are.

        Returns:
            The sandbox, and the ports that are published no longer.

        Raises:
            InvalidInput: The list is too long, or has a port twice or that does not exist.
        """
        check_listed(ports, name="publishPorts")
        before: set[str] = set()

        def changed(sandbox: Sandbox) -> Sandbox:
            nonlocal before
            before = set(sandbox.published)
            return with_ports_only(sandbox, ports)

        sandbox = await self._change(owner, ref, changed)
        return sandbox, tuple(int(port) for port in before - set(sandbox.published) if port.isdecimal())

    async def find(self, sandbox_id: str, port: int) -> tuple[Sandbox, PublishedPort] | None:
        """Find a published port, whoever owns the sandbox: who may open it, the caller has to check.

        Raises:
            Unavailable: The sandbox's record cannot be read.
        """
        sandbox = await self._store.find(sandbox_id)
        if sandbox is None or sandbox.state is State.DELETED:
            return None
        published = published_port(sandbox, port)
        return None if published is None else (sandbox, published)

    async def _change(self, owner: str, ref: str, change: Callable[[Sandbox], Sandbox]) -> Sandbox:
        def changed(sandbox: Sandbox) -> Sandbox:
            return replace(change(sandbox), updated_ms=self._clock())

        sandbox = await self._ownership.get(owner, ref)
        return self._ownership.seen(await self._store.change(sandbox.id, changed))
