"""Calls about whole sandboxes: create, find, list, change, delete, and what they use of the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import anyio

from ..lifecycle.create import Creator
from ..lifecycle.delete import Deleter
from ..lifecycle.keyed_lock import KeyedLock
from ..lifecycle.lapse import Lapse
from ..machines.clone import no_progress
from ..machines.templates import Report
from ..network.gateway import Gateway
from ..sandboxes import lease
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.spec import SandboxSpec, check_labels, check_name, network_text
from ..sandboxes.store import SandboxStore
from ..sandboxes.usage import Usage
from .ownership import Ownership

_PAGE_LIMIT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of an owner's sandboxes, newest first; `total` counts all that match."""

    items: tuple[Sandbox, ...]
    total: int
    page: int
    limit: int

    @classmethod
    def of(cls, sandboxes: Sequence[Sandbox], *, labels: Mapping[str, str] | None, page: int, limit: int) -> Self:
        """Return one page of those that have all the labels; page and limit are clamped to their ranges."""
        page, limit = max(1, page), min(max(1, limit), _PAGE_LIMIT)
        wanted = (labels or {}).items()
        found = [sandbox for sandbox in sandboxes if wanted <= sandbox.labels.items()]
        start = (page - 1) * limit
        return cls(items=tuple(found[start : start + limit]), total=len(found), page=page, limit=limit)


class SandboxCalls:
    """What an owner may do with whole sandboxes: create, find, change and delete them.

    Args:
        ownership: Finds the owner's sandboxes.
        store: The records of the sandboxes.
        creator: Creates new ones.
        deleter: Deletes them.
        lapse: Deletes those that nobody has used for long.
        gateway: Their way to the network.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        ownership: Ownership,
        store: SandboxStore,
        creator: Creator,
        deleter: Deleter,
        lapse: Lapse,
        gateway: Gateway,
        clock: Callable[[], int],
    ) -> None:
        self._ownership = ownership
        self._store = store
        self._creator = creator
        self._deleter = deleter
        self._lapse = lapse
        self._gateway = gateway
        self._clock = clock
        self._turns = KeyedLock()

    async def create(self, owner: str, spec: SandboxSpec, *, on_progress: Report | None = None) -> Sandbox:
        """Create a sandbox; it is ready for commands when this returns. On failure nothing of it is left.

        If the spec names a snapshot, image and size are those of the snapshot.

        Raises:
            InvalidInput: A value of the spec is not allowed.
            NotFound: There is no such snapshot.
            Conflict: Several snapshots have the name, or another hypervisor saved the snapshot.
            LimitExceeded: The owner has reached a limit.
            HostExhausted: The host lacks memory or disk space.
            Unavailable: The image is not built, a snapshot is damaged, or the machine did not start.
        """
        self._gateway.check(network_text(spec.network))
        return await self._creator.create(owner, spec, on_progress or no_progress)

    async def begin(self, owner: str, spec: SandboxSpec, *, wait_s: float = 0) -> Sandbox:
        """Create a sandbox in the background, and return its record once it runs, or after `wait_s` seconds.

        Calls to one that does not run yet wait until it does, and deleting it ends the creation. A failure that comes
        later stays visible: the record is in the state `error` with the reason. The creation goes on if the caller
        gives up.

        Raises:
            CasemateError: As `create`, as far as it is known in this time; nothing is left then.
        """
        self._gateway.check(network_text(spec.network))
        return await self._creator.begin(owner, spec, no_progress, wait_s=wait_s)

    async def get(self, owner: str, ref: str) -> Sandbox:
        """Find one sandbox, by id or name.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: Several sandboxes have the name; the message lists their ids.
        """
        return await self._ownership.get(owner, ref)

    async def list(
        self, owner: str, *, labels: Mapping[str, str] | None = None, page: int = 1, limit: int = 20
    ) -> Page:
        """List the owner's sandboxes, newest first; with labels, those that have all of them."""
        found = Page.of(await self._store.owned(owner), labels=labels, page=page, limit=limit)
        return replace(found, items=tuple(self._ownership.seen(sandbox) for sandbox in found.items))

    async def usage(self, owner: str) -> Usage:
        """Count what the owner's sandboxes use, as quotas count it."""
        return Usage.of(await self._store.owned(owner))

    async def survey(self) -> dict[State, Usage]:
        """Count what all sandboxes of this host use, whoever owns them, by state."""
        seen: dict[State, list[Sandbox]] = {state: [] for state in State}
        for state in State:
            for sandbox in map(self._ownership.seen, await self._store.in_state(state)):
                seen[sandbox.state].append(sandbox)
        return {state: Usage.of(sandboxes) for state, sandboxes in seen.items()}

    async def update(
        self,
        owner: str,
        ref: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        auto_sleep: bool | None = None,
        ttl_s: int | None = None,
        idle_s: int | None = None,
        network: str | None = None,
    ) -> Sandbox:
        """Change the values that are not None.

        Args:
            owner: The owner.
            ref: The sandbox's id or name.
            name: A new name.
            labels: New labels, which replace all others.
            auto_sleep: Whether it may be put to sleep when idle.
            ttl_s: Seconds to live from now on, or from when it wakes; 0 is no limit.
            idle_s: Seconds without use before it may be put to sleep; 0 is never.
            network: The text of its policy, which applies to open connections, too; empty is the operator's.

        Raises:
            InvalidInput: A new value is not allowed.
            Conflict: A new time to live for a sandbox that is dead.
            Unavailable: The policy could not be applied, so the one before it stays; the other values are changed.
        """
        if name is not None:
            check_name(name)
        if labels is not None:
            check_labels(labels)
        if idle_s is not None:
            lease.check_idle(idle_s)
        policy = None if network is None else network_text(network)
        if policy is not None:
            self._gateway.check(policy)

        before = ""

        def changed(sandbox: Sandbox) -> Sandbox:
            nonlocal before
            before, now = sandbox.network, self._clock()
            renewed = sandbox if ttl_s is None else lease.renewed(sandbox, ttl_s, now)
            return replace(
                renewed,
                name=sandbox.name if name is None else name,
                labels=sandbox.labels if labels is None else dict(labels),
                auto_sleep=sandbox.auto_sleep if auto_sleep is None else auto_sleep,
                idle_s=sandbox.idle_s if idle_s is None else idle_s,
                network=sandbox.network if policy is None else policy,
                updated_ms=now,
            )

        sandbox_id = (await self._ownership.get(owner, ref)).id
        if policy is None:
            return self._ownership.seen(await self._store.change(sandbox_id, changed))
        # What is stored last must be applied last, and what was stored must be applied.
        with anyio.CancelScope(shield=True):
            async with self._turns.of(sandbox_id):
                saved = await self._store.change(sandbox_id, changed)
                try:
                    await self._gateway.changed(sandbox_id, saved.network)
                except Exception:
                    await self._store.change(sandbox_id, lambda sandbox: replace(sandbox, network=before))
                    raise
                return self._ownership.seen(saved)
        raise AssertionError  # unreachable: the block either returns or raises

    async def delete(self, owner: str, ref: str) -> None:
        """Delete a sandbox with everything in it; its snapshots stay.

        Does not need the guest. If the server crashes, its next start finishes the deletion.
        """
        await self._deleter.delete((await self._ownership.get(owner, ref)).id)

    async def delete_lapsed(self, labels: Mapping[str, str], *, unused_s: int, age_s: int = 0) -> int:
        """Delete every owner's sandboxes with these labels that have lapsed, and count them.

        Args:
            labels: Only sandboxes that have all of these.
            unused_s: Seconds since the last use, asleep or not; 0 is never.
            age_s: Seconds since the creation, in use or not; 0 is never.

        Raises:
            CasemateError: The records cannot be read.
        """
        return await self._lapse.delete(labels, unused_s=unused_s, age_s=age_s)
