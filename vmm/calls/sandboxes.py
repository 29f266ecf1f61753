"""Calls about sandboxes as a whole: create, find, list, change, delete, and what they take of the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from ..lifecycle.create import Creator
from ..lifecycle.delete import Deleter
from ..machines.clone import silent
from ..machines.templates import Report
from ..sandboxes import lease
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.spec import SandboxSpec, check_labels, check_name
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
        """One page of those that have all the labels; what is out of range is brought into it."""
        page, limit = max(1, page), min(max(1, limit), _PAGE_LIMIT)
        wanted = (labels or {}).items()
        found = [sandbox for sandbox in sandboxes if wanted <= sandbox.labels.items()]
        start = (page - 1) * limit
        return cls(items=tuple(found[start : start + limit]), total=len(found), page=page, limit=limit)


class SandboxCalls:
    """What an owner may do with sandboxes as a whole: create, find, change and delete them.

    Args:
        ownership: Finds the owner's sandboxes.
        store: The records of the sandboxes.
        creator: Makes new ones.
        deleter: Ends them.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        *,
        ownership: Ownership,
        store: SandboxStore,
        creator: Creator,
        deleter: Deleter,
        clock: Callable[[], int],
    ) -> None:
        self._ownership = ownership
        self._store = store
        self._creator = creator
        self._deleter = deleter
        self._clock = clock

    async def create(self, owner: str, spec: SandboxSpec, *, on_progress: Report | None = None) -> Sandbox:
        """Create a sandbox; it is ready for commands when this returns. On failure nothing of it is left.

        With a snapshot named, the image and the size are that one's.

        Raises:
            InvalidInput: A value of the spec is not allowed.
            NotFound: There is no such snapshot.
            Conflict: The snapshot's name fits several, or another hypervisor saved it.
            LimitExceeded: The owner has enough.
            HostExhausted: The host lacks memory or disk.
            Unavailable: The image is not built, a snapshot is damaged, or the machine did not come up.
        """
        return await self._creator.create(owner, spec, on_progress or silent)

    async def get(self, owner: str, ref: str) -> Sandbox:
        """One sandbox, by id or name.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: The name fits several; the message lists their ids.
        """
        return await self._ownership.get(owner, ref)

    async def list(
        self, owner: str, *, labels: Mapping[str, str] | None = None, page: int = 1, limit: int = 20
    ) -> Page:
        """The owner's sandboxes, newest first; with labels, those that have all of them."""
        found = Page.of(await self._store.owned(owner), labels=labels, page=page, limit=limit)
        return replace(found, items=tuple(self._ownership.seen(sandbox) for sandbox in found.items))

    async def usage(self, owner: str) -> Usage:
        """What the owner's sandboxes take, as quotas count it."""
        return Usage.of(await self._store.owned(owner))

    async def survey(self) -> dict[State, Usage]:
        """What all sandboxes of this host take, whoever owns them, by state."""
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
    ) -> Sandbox:
        """Change what may be changed; what is None stays.

        Args:
            owner: Whose.
            ref: Which.
            name: A new name.
            labels: In place of all others.
            auto_sleep: Whether it may be put to sleep when idle.
            ttl_s: Seconds to live from now on, or from its waking; 0 is no limit.
            idle_s: Seconds without use after which it may be put to sleep; 0 is never.

        Raises:
            InvalidInput: A new value cannot be.
            Conflict: A time to live for a sandbox that is dead.
        """
        if name is not None:
            check_name(name)
        if labels is not None:
            check_labels(labels)
        if idle_s is not None:
            lease.check_idle(idle_s)

        def changed(sandbox: Sandbox) -> Sandbox:
            now = self._clock()
            renewed = sandbox if ttl_s is None else lease.renewed(sandbox, ttl_s, now)
            return replace(
                renewed,
                name=sandbox.name if name is None else name,
                labels=sandbox.labels if labels is None else dict(labels),
                auto_sleep=sandbox.auto_sleep if auto_sleep is None else auto_sleep,
                idle_s=sandbox.idle_s if idle_s is None else idle_s,
                updated_ms=now,
            )

        return self._ownership.seen(await self._store.change((await self._ownership.get(owner, ref)).id, changed))

    async def delete(self, owner: str, ref: str) -> None:
        """Delete a sandbox with everything in it; its snapshots stay.

        Never needs the guest; what a crash leaves, the next start finishes.
        """
        await self._deleter.delete((await self._ownership.get(owner, ref)).id)
