"""The part of the fleet that needs records alone: which sandboxes there are, what they take, what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from ..errors import Conflict, NotFound
from ..sandboxes import lease
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.spec import check_labels, check_name
from ..sandboxes.store import Records
from ..sandboxes.usage import Usage

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


class RecordCalls:
    """What a sandbox's owner may know of it, and change in what is known."""

    _records: Records
    _clock: Callable[[], int]
    _found: Callable[[str], None]
    _silence: Callable[[str], str]
    """Why the guest of a sandbox that runs does not answer; empty if it does, as far as is known."""

    async def get(self, owner: str, ref: str) -> Sandbox:
        """One sandbox, by id or name.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: The name fits several; the message lists their ids.
        """
        sandbox = await self._records.get(owner, ref)
        if sandbox is None or sandbox.state is State.DELETED:
            sandbox = await self._only(owner, ref)
        self._found(sandbox.id)
        return self._shown(sandbox)

    async def list(
        self, owner: str, *, labels: Mapping[str, str] | None = None, page: int = 1, limit: int = 20
    ) -> Page:
        """The owner's sandboxes, newest first; with labels, those that have all of them."""
        found = Page.of(await self._records.owned(owner), labels=labels, page=page, limit=limit)
        return replace(found, items=tuple(self._shown(sandbox) for sandbox in found.items))

    async def usage(self, owner: str) -> Usage:
        """What the owner's sandboxes take, as quotas count it."""
        return Usage.of(await self._records.owned(owner))

    async def survey(self) -> dict[State, Usage]:
        """What all sandboxes of this host take, whoever owns them, by state."""
        seen: dict[State, list[Sandbox]] = {state: [] for state in State}
        for state in State:
            for sandbox in map(self._shown, await self._records.in_state(state)):
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

        return self._shown(await self._records.change((await self.get(owner, ref)).id, changed))

    def _shown(self, sandbox: Sandbox) -> Sandbox:
        """A record as its owner sees it: one that runs and whose guest does not answer is unresponsive."""
        why = self._silence(sandbox.id) if sandbox.state is State.RUNNING else ""
        return sandbox.silent(why) if why else sandbox

    async def _only(self, owner: str, ref: str) -> Sandbox:
        named = await self._records.named(owner, ref)
        if not named:
            raise NotFound(f"There is no sandbox {_shown(ref)}", hint="List the sandboxes, or create one")
        if len(named) > 1:
            ids = ", ".join(sandbox.id for sandbox in named)
            raise Conflict(f"The name {_shown(ref)} fits several sandboxes: {ids}", hint="Use one of these ids")
        return named[0]


def _shown(ref: str) -> str:
    return repr(ref if len(ref) <= 80 else f"{ref[:80]}…")
