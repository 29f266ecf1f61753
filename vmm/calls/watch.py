"""One watch of files: follows what happens to them on the machines that its sandbox has one after the other."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import anyio

from ..errors import CasemateError, LinkError
from ..machines.machine import Machine
from .event_buffer import EventBuffer

_AGAIN_S = 0.5
_TRIES = 20
_GAP = (
    "the sandbox slept, was restarted or restored, or the connection to it or to the client broke: "
    "what happened meanwhile is not known"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to watch.

    Attributes:
        path: A directory or a file.
        recursive: Whether directories below it are watched, too, new ones included.
        ignore_hidden: Whether names that begin with a dot are left out, and what is in such directories.
    """

    path: str
    recursive: bool = False
    ignore_hidden: bool = True


class Watch:
    """A watch for one client.

    Attributes:
        id: A UUID.
        sandbox_id: Its sandbox.
        events: What its client has not read yet.
        claimed: Set once it has a client.

    Args:
        sandbox_id: The same.
        wanted: What to watch.
    """

    def __init__(self, sandbox_id: str, wanted: Wanted) -> None:
        self.id = str(uuid.uuid4())
        self.sandbox_id = sandbox_id
        self.events = EventBuffer(wanted.path)
        self.claimed = anyio.Event()
        self._wanted = wanted
        self._begun = anyio.Event()
        self._followed = False
        self._closed = False
        self._scope: anyio.CancelScope | None = None

    def again(self) -> Watch:
        """Return the same watch for a client that comes back, which will be told that events are missing."""
        watch = Watch(self.sandbox_id, self._wanted)
        watch.id = self.id
        watch._followed = True
        return watch

    async def begun(self) -> None:
        """Wait until nothing is missed any more, or until it has failed."""
        await self._begun.wait()

    def check(self) -> None:
        """Raise the error with which it has failed, if it has."""
        if self.events.failure is not None:
            raise self.events.failure

    async def follow(self, machine: Machine) -> None:
        """Collect events until cancelled or closed, or until there is nothing to watch any more."""
        failed = 0
        with anyio.CancelScope() as self._scope:
            while not self._closed and not self.events.ended:
                try:
                    async with machine.link.watch(
                        self._wanted.path, recursive=self._wanted.recursive, ignore_hidden=self._wanted.ignore_hidden
                    ) as events:
                        if self._followed:
                            self.events.lose(_GAP)
                        self._followed = True
                        self._begun.set()
                        failed = 0
                        async for some in events:
                            self.events.put(some)
                        self.events.end(events.reason)
                except LinkError as error:
                    failed += 1
                    if failed == _TRIES or not self._followed:
                        self.fail(error)
                    await anyio.sleep(_AGAIN_S)
                except CasemateError as error:
                    self.fail(error)

    def end(self, reason: str) -> None:
        """End it without an error, and have its client told why."""
        self.interrupted()
        self.events.end(reason)
        self._begun.set()
        self.close()

    def fail(self, error: CasemateError) -> None:
        """End it, and have its client told the error."""
        self.events.fail(error)
        self._begun.set()

    def interrupted(self) -> None:
        """Fail if it was never followed, because the machine is not the sandbox's any more."""
        if not self._followed:
            self.fail(LinkError("The sandbox's machine is gone"))

    def close(self) -> None:
        """Follow no longer."""
        self._closed = True
        if self._scope is not None:
            self._scope.cancel()
