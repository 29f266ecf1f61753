"""Who owns a sandbox: the only place that compares a call's owner with the record, before anything else happens."""

from __future__ import annotations

from collections.abc import Callable

from storage.shown import shown

from ..errors import Conflict, NotFound
from ..lifecycle.creations import Creations
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore


class Ownership:
    """Finds the sandboxes of an owner, and nobody else's.

    Args:
        store: The records of the sandboxes.
        creations: Which are still being created in the background.
        why_unresponsive: Why the guest of a running sandbox does not answer; empty if it does, as far as is known.
        on_sandbox: Called with the id of each sandbox that a call is about, once it is known.
    """

    def __init__(
        self,
        store: SandboxStore,
        *,
        creations: Creations,
        why_unresponsive: Callable[[str], str],
        on_sandbox: Callable[[str], None],
    ) -> None:
        self._store = store
        self._creations = creations
        self._why_unresponsive = why_unresponsive
        self._on_sandbox = on_sandbox

    async def get(self, owner: str, ref: str) -> Sandbox:
        """Find one sandbox, by id or name.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: Several sandboxes have the name; the message lists their ids.
        """
        sandbox = await self._store.get(owner, ref)
        if sandbox is None or sandbox.state is State.DELETED:
            sandbox = await self._by_name(owner, ref)
        self._on_sandbox(sandbox.id)
        return self.seen(sandbox)

    async def made(self, owner: str, ref: str) -> Sandbox:
        """Find one sandbox, by id or name, and wait until it is made, at most a minute.

        Raises:
            NotFound: There is none, it is somebody else's, or it was deleted meanwhile.
            Conflict: Several sandboxes have the name; the message lists their ids.
        """
        sandbox = await self.get(owner, ref)
        if sandbox.state is not State.CREATING:
            return sandbox
        await self._creations.wait(sandbox.id)
        return await self.get(owner, sandbox.id)

    def seen(self, sandbox: Sandbox) -> Sandbox:
        """Return the record as its owner sees it: unresponsive if it runs but its guest does not answer."""
        why = self._why_unresponsive(sandbox.id) if sandbox.state is State.RUNNING else ""
        return sandbox.as_unresponsive(why) if why else sandbox

    async def _by_name(self, owner: str, ref: str) -> Sandbox:
        named = await self._store.named(owner, ref)
        if not named:
            raise NotFound(
                "Sandbox not found", hint=f"There is no sandbox {shown(ref)}: list the sandboxes, or create one"
            )
        if len(named) > 1:
            ids = ", ".join(sandbox.id for sandbox in named)
            raise Conflict(f"Several sandboxes have the name {shown(ref)}: {ids}", hint="Use one of these ids")
        return named[0]
