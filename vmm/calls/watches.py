"""Calls about watches of files: what happens to them in a sandbox, for one client each.

A watch is followed beside the machine that the sandbox has: it ends before that is put to sleep, and begins again with
the next one, which its client is told as an overflow. It is no use of the sandbox: it neither wakes it nor keeps it
awake. In the guest a watch ends with its client; its id is kept for a minute, so that the client may come back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from storage.shown import shown

from ..errors import Conflict, LinkError, NotFound
from ..lifecycle.access import GuestAccess
from ..machines.machine import Machine
from ..sandboxes.sandbox import Sandbox, State
from .ownership import Ownership
from .watch import Wanted, Watch

MOST = 16
"""Watches of a sandbox at once, and as many whose clients have left."""

_UNCLAIMED_S = 60.0
"""How long a watch waits for its client."""
_BEGIN_S = 10.0
"""How long a client that comes back waits for its watch to begin again, so that it misses nothing once it is there."""
_DIED = "The sandbox's machine has ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Serving:
    """What follows the watches of a sandbox beside its machine."""

    machine: Machine
    tasks: TaskGroup


class WatchCalls:
    """What an owner may watch.

    Args:
        ownership: Finds the owner's sandboxes.
        access: Wakes them.
        tasks: Runs what ends watches that nobody claims.
    """

    def __init__(self, *, ownership: Ownership, access: GuestAccess, tasks: TaskGroup) -> None:
        self._ownership = ownership
        self._access = access
        self._tasks = tasks
        self._watches: dict[str, Watch] = {}
        self._left: dict[str, Watch] = {}
        self._serving: dict[str, _Serving] = {}

    def __len__(self) -> int:
        """Count the watches, without those whose clients have left."""
        return len(self._watches)

    async def open(self, owner: str, ref: str, wanted: Wanted) -> str:
        """Begin a watch and return its id; wakes a sandbox that sleeps. It ends soon, unless a client claims it.

        Raises:
            NotFound: There is no such sandbox, or it is somebody else's.
            GuestFileMissing: There is no such path.
            GuestError: The sandbox's watches have reached a limit; the message names it.
            Conflict: It has too many watches.
        """
        sandbox = await self._ownership.get(owner, ref)
        watch = Watch(sandbox.id, wanted)
        try:
            async with self._access.use(sandbox):
                self._begin(watch)
                await watch.begun()
                watch.check()
        except BaseException:
            self._close(watch)
            raise
        self._tasks.start_soon(self._end_unclaimed, watch)
        return watch.id

    @asynccontextmanager
    async def claim(self, owner: str, ref: str, watch_id: str) -> AsyncGenerator[Watch]:
        """Be the client of a watch for the length of the block, in place of the one that it has.

        Afterwards a client may come back for a while.

        Raises:
            NotFound: There is no such watch in this sandbox, or it is somebody else's.
            Conflict: A client comes back, and the sandbox has too many watches.
        """
        sandbox = await self._ownership.get(owner, ref)
        watch = self._watches.get(watch_id) or self._left.get(watch_id)
        if watch is None or watch.sandbox_id != sandbox.id:
            raise NotFound(
                f"There is no watch {shown(watch_id)}; one ends {_UNCLAIMED_S:g} s after its socket",
                hint="Start another one",
            )
        if watch.claimed.is_set():
            # Most likely it has come back before the server could know that it had left.
            watch.end("another client has come")
            self._close(watch)
            watch = watch.again()
        if watch_id not in self._watches:
            self._begin(watch)
            self._left.pop(watch_id, None)
        watch.claimed.set()
        try:
            if sandbox.state in {State.KILLED, State.ERROR}:
                watch.fail(_lost(sandbox))
            elif sandbox.id in self._serving:
                with anyio.move_on_after(_BEGIN_S):
                    await watch.begun()
            yield watch
        finally:
            self._leave(watch)

    async def serve(self, sandbox_id: str, machine: Machine) -> None:
        """Follow the watches of a sandbox, on one machine of it, until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._serving[sandbox_id] = serving = _Serving(machine=machine, tasks=tasks)
            try:
                for watch in _of(sandbox_id, self._watches):
                    tasks.start_soon(watch.follow, machine)
                await anyio.sleep_forever()
            finally:
                if self._serving.get(sandbox_id) is serving:
                    del self._serving[sandbox_id]
                    for watch in _of(sandbox_id, self._watches):
                        watch.interrupted()

    def forget(self, sandbox_id: str) -> None:
        """End the watches of a sandbox that was deleted."""
        for watch in _of(sandbox_id, self._watches):
            watch.end("the sandbox was deleted")
        for watch in _of(sandbox_id, self._left):
            self._close(watch)

    def died(self, sandbox_id: str) -> None:
        """End the watches of a sandbox whose machine has died."""
        for watch in _of(sandbox_id, self._watches):
            watch.fail(LinkError(_DIED))

    def _begin(self, watch: Watch) -> None:
        """Follow a watch on the machine that its sandbox has; `serve` finds it if that machine was just started.

        Raises:
            Conflict: The sandbox has too many watches.
        """
        if len(_of(watch.sandbox_id, self._watches)) >= MOST:
            raise Conflict(f"Sandbox {watch.sandbox_id} has {MOST} watches already", hint="Close one of their sockets")
        self._watches[watch.id] = watch
        if serving := self._serving.get(watch.sandbox_id):
            serving.tasks.start_soon(watch.follow, serving.machine)

    def _leave(self, watch: Watch) -> None:
        """End a watch whose client has left; unless it is over, keep its id for a while."""
        self._close(watch)
        if not watch.events.ended:
            left = _of(watch.sandbox_id, self._left)
            if len(left) >= MOST:
                self._close(left[0])
            self._left[watch.id] = again = watch.again()
            self._tasks.start_soon(self._end_unclaimed, again)

    async def _end_unclaimed(self, watch: Watch) -> None:
        with anyio.move_on_after(_UNCLAIMED_S):
            await watch.claimed.wait()
            return
        self._close(watch)

    def _close(self, watch: Watch) -> None:
        watch.close()
        for watches in (self._watches, self._left):
            if watches.get(watch.id) is watch:
                del watches[watch.id]


def _of(sandbox_id: str, watches: dict[str, Watch]) -> list[Watch]:
    return [watch for watch in watches.values() if watch.sandbox_id == sandbox_id]


def _lost(sandbox: Sandbox) -> LinkError:
    return LinkError(f"Sandbox {sandbox.id} does not run: {sandbox.reason or _DIED}")
