"""Whose a sandbox is: the one place where a call's owner meets the record, before anything else happens."""

from __future__ import annotations

from collections.abc import Callable

from storage.shown import shown

from ..errors import Conflict, NotFound
from ..sandboxes.sandbox import Sandbox, State
from ..sandboxes.store import SandboxStore


class Ownership:
    """Finds the sandboxes of an owner, and nobody else's.

    Args:
        store: The records of the sandboxes.
        silence: Why the guest of a sandbox that runs does not answer; empty if it does, as far as is known.
        on_sandbox: Called with the id of each sandbox that a call is about, once it is known.
    """

    def __init__(
        self, store: SandboxStore, *, silence: Callable[[str], str], on_sandbox: Callable[[str], None]
    ) -> None:
        self._store = store
        self._silence = silence
        self._on_sandbox = on_sandbox

    async def get(self, owner: str, ref: str) -> Sandbox:
        """One sandbox, by id or name.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: The name fits several; the message lists their ids.
        """
        sandbox = await self._store.get(owner, ref)
        if sandbox is None or sandbox.state is State.DELETED:
            sandbox = await self._only(owner, ref)
        self._on_sandbox(sandbox.id)
        return self.seen(sandbox)

    def seen(self, sandbox: Sandbox) -> Sandbox:
        """A record as its owner sees it: one that runs and whose guest does not answer is unresponsive."""
        why = self._silence(sandbox.id) if sandbox.state is State.RUNNING else ""
        return sandbox.silent(why) if why else sandbox

    async def _only(self, owner: str, ref: str) -> Sandbox:
        named = await self._store.named(owner, ref)
        if not named:
            raise NotFound(f"There is no sandbox {shown(ref)}", hint="List the sandboxes, or create one")
        if len(named) > 1:
            ids = ", ".join(sandbox.id for sandbox in named)
            raise Conflict(f"The name {shown(ref)} fits several sandboxes: {ids}", hint="Use one of these ids")
        return named[0]
