"""Sessions: a caller's own name for a sandbox, which is created on first use and found again ever after.

A session is nothing but a sandbox: its name is made of the session's, its labels say that it is one, and the fleet
keeps, wakes and deletes it. Nothing is stored beside it, so no crash can part the two. Where files are to outlive it,
they are on a volume that is named after the session, too.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
import structlog

from vmm.errors import CasemateError, NotFound, Unavailable
from vmm.guest.values import Command
from vmm.lifecycle.keyed_lock import KeyedLock
from vmm.sandboxes.sandbox import State
from vmm.sandboxes.spec import SandboxSpec

from .kept_files import KeptFiles
from .names import LABELS, SESSION_ID, sandbox_name, session_of
from .rules import Home
from .scripts import PREPARE, script

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from vmm.fleet import Fleet
    from vmm.sandboxes.sandbox import Sandbox

    from .rules import Rules

_DEAD = frozenset({State.KILLED, State.ERROR})
_PAGE = 100
_PREPARE_MS = 60_000
_KEPT = 10_000
_log = structlog.stdlib.get_logger("casemate.sessions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session that was asked for by name.

    Attributes:
        sandbox: Its sandbox, which runs.
        note: What was lost, if its machine had died and was started again; else empty.
    """

    sandbox: Sandbox
    note: str = ""


class Sessions:
    """Finds and creates sessions, and ends those that have lapsed.

    Args:
        fleet: The running fleet.
        rules: The limits of sessions.
        home: Where their files are inside.
    """

    def __init__(self, fleet: Fleet, rules: Rules, home: Home) -> None:
        self._fleet = fleet
        self._rules = rules
        self._home = home
        self._kept = KeptFiles(fleet, rules, home)
        self._turns = KeyedLock()
        # Sandboxes that this server has prepared. Preparing one again changes nothing, so it is not recorded.
        self._prepared: dict[str, None] = {}

    @asynccontextmanager
    async def use(self, owner: str, session_id: str) -> AsyncGenerator[Sandbox]:
        """Give a block the sandbox of a session, created if there is none, woken if it sleeps, and kept meanwhile.

        Raises:
            InvalidInput: The name is not allowed.
            SandboxLost: Its machine has died; see `open`.
            LimitExceeded: The owner has reached a limit.
            HostExhausted: The host lacks memory or disk space.
            Unavailable: It could not be created or prepared.
        """
        async with AsyncExitStack() as stack:
            yield await self._held(stack, owner, session_id)

    async def open(self, owner: str, session_id: str, *, created_by: str = "") -> Opened:
        """Find or create a session; one whose machine has died starts again from its disk.

        Raises:
            CasemateError: As `use`.
        """
        note = ""
        found = await self.find(owner, session_id)
        if found is not None and found.state in _DEAD:
            note = (await self._fleet.lifecycle.revive(owner, found.id)).reason
        async with AsyncExitStack() as stack:
            sandbox = await self._held(stack, owner, session_id, created_by=created_by)
        return Opened(sandbox=sandbox, note=note)

    async def find(self, owner: str, session_id: str) -> Sandbox | None:
        """Find the sandbox of a session, without creating or waking it; None if there is none.

        Raises:
            InvalidInput: The name is not allowed.
            Conflict: Several sandboxes have the session's name, which only their owner can have done.
        """
        try:
            return await self._fleet.sandboxes.get(owner, sandbox_name(session_id))
        except NotFound:
            return None

    async def has_files(self, owner: str, session_id: str) -> bool:
        """Tell whether a session may have files: it has a sandbox, or its files outlived one.

        Raises:
            CasemateError: As `find`.
        """
        return await self.find(owner, session_id) is not None or await self._kept.exist(owner, session_id)

    async def list(self, owner: str) -> list[Sandbox]:
        """List an owner's sessions, newest first."""
        found: list[Sandbox] = []
        number, total = 1, 1
        while len(found) < total:
            page = await self._fleet.sandboxes.list(owner, labels=LABELS, page=number, limit=_PAGE)
            found += page.items
            number, total = number + 1, page.total if page.items else 0
        return [sandbox for sandbox in found if session_of(sandbox)]

    async def delete(self, owner: str, session_id: str) -> bool:
        """Delete a session with its files, also those that outlived its sandbox, and tell whether there was one."""
        async with self._turns.of(_key(owner, sandbox_name(session_id))):
            found = await self.find(owner, session_id)
            if found is not None:
                self._prepared.pop(found.id, None)
                await self._fleet.sandboxes.delete(owner, found.id)
            return await self._kept.delete(owner, session_id) or found is not None
        raise AssertionError  # unreachable: the block either returns or raises

    async def run(self, every_s: float) -> None:
        """Delete sessions that have lapsed, until cancelled.

        Args:
            every_s: Seconds between two checks.
        """
        while True:
            try:
                await self._fleet.sandboxes.delete_lapsed(
                    LABELS, unused_s=self._rules.unused_s, age_s=self._rules.max_s
                )
            except CasemateError as error:
                _log.warning("sessions not checked", reason=str(error))
            await anyio.sleep(every_s)

    async def _held(self, stack: AsyncExitStack, owner: str, session_id: str, *, created_by: str = "") -> Sandbox:
        """Keep the session's sandbox from sleeping and lapsing until the stack is closed."""
        sandbox = await self._ready(owner, session_id, created_by)
        try:
            await stack.enter_async_context(self._fleet.guest.reach(owner, sandbox.id))
        except NotFound:
            # It lapsed in between: nothing was run in it yet, so the call gets a new one.
            self._prepared.pop(sandbox.id, None)
            sandbox = await self._ready(owner, session_id, created_by)
            await stack.enter_async_context(self._fleet.guest.reach(owner, sandbox.id))
        return sandbox

    async def _ready(self, owner: str, session_id: str, created_by: str) -> Sandbox:
        """Find or create the session's sandbox, once for all concurrent callers, and make it ready for commands."""
        name = sandbox_name(session_id)
        found = await self.find(owner, session_id)
        if found is not None and found.id in self._prepared:
            return found
        async with self._turns.of(_key(owner, name)):
            sandbox = await self.find(owner, session_id)
            if sandbox is None:
                spec = self._spec(name, session_id, created_by)
                async with self._kept.for_new(owner, session_id, created_by) as mounts:
                    sandbox = await self._fleet.sandboxes.create(owner, replace(spec, volumes=mounts))
                _log.info("session created", sandbox=sandbox.id)
            if sandbox.id not in self._prepared:
                await self._prepare(owner, sandbox)
            return sandbox
        raise AssertionError  # unreachable: the block either returns or raises

    def _spec(self, name: str, session_id: str, created_by: str) -> SandboxSpec:
        return SandboxSpec(
            name=name,
            image=self._rules.image,
            cpu=self._rules.cpu,
            mem=self._rules.mem,
            labels=LABELS,
            env={SESSION_ID: session_id},
            idle_s=self._rules.ttl_s,
            network=self._rules.network,
            created_by=created_by,
        )

    async def _prepare(self, owner: str, sandbox: Sandbox) -> None:
        """Make the user and the workspace inside; what is there already stays as it is."""
        command = Command(argv=script(PREPARE, self._home.workspace, self._home.user), cwd="/")
        outcome = await self._fleet.guest.exec(owner, sandbox.id, command, wait_ms=_PREPARE_MS)
        if outcome.exit_code != 0:
            said = outcome.stderr.data().decode("utf-8", "replace").strip()[-200:] or "no answer in time"
            raise Unavailable(f"The workspace of the session could not be prepared: {said}", hint="Try again")
        while len(self._prepared) >= _KEPT:
            self._prepared.pop(next(iter(self._prepared)))
        self._prepared[sandbox.id] = None


def _key(owner: str, name: str) -> str:
    return f"{owner} {name}"
