"""Creations in the background: who waits for one learns its outcome, and calls wait until the sandbox is there."""

from __future__ import annotations

import anyio

from ..errors import Unavailable
from ..sandboxes.sandbox import Sandbox

_WAIT_S = 60.0
"""Three times what the template of a new size takes on a host without KVM."""


class Creation:
    """One creation, whose creator may wait for it."""

    def __init__(self) -> None:
        self._over = anyio.Event()
        self._awaited = False
        self._failing = False
        self._made: Sandbox | None = None
        self._error: Exception | None = None

    async def outcome(self, wait_s: float) -> Sandbox | None:
        """Return the sandbox once it runs; None if that takes longer than `wait_s` seconds, or nobody is to wait.

        Raises:
            Exception: Why it failed; nothing is left of it then.
            Unavailable: It was interrupted.
        """
        if wait_s <= 0:
            return None
        self._awaited = True
        try:
            with anyio.move_on_after(wait_s):
                await self._over.wait()
            if self._failing:  # what is left of it is being removed
                await self._over.wait()
        finally:
            self._awaited = False
        if self._error is not None:
            raise self._error
        if self._made is None and self._over.is_set():
            raise Unavailable("The creation was interrupted: the server is stopping")
        return self._made

    def is_told(self) -> bool:
        """Decide, as it fails, whether its creator is told; otherwise the sandbox's record must say it."""
        self._failing = self._awaited
        return self._failing

    def succeed(self, sandbox: Sandbox) -> None:
        """Note the sandbox, which runs."""
        self._made = sandbox

    def fail(self, error: Exception) -> bool:
        """Note why it failed, and tell whether its creator learns it."""
        self._error = error
        return self._failing

    def end(self) -> None:
        """Let everybody go on who waits."""
        self._over.set()

    async def wait(self) -> None:
        """Wait for its end, at most a minute."""
        with anyio.move_on_after(_WAIT_S):
            await self._over.wait()


class Creations:
    """The creations that are under way in the background."""

    def __init__(self) -> None:
        self._open: dict[str, Creation] = {}

    def begin(self, sandbox_id: str) -> Creation:
        """Note that a creation begins."""
        creation = self._open[sandbox_id] = Creation()
        return creation

    def end(self, sandbox_id: str) -> None:
        """Let the calls that wait for a creation go on, whatever became of it."""
        self._open.pop(sandbox_id).end()

    async def wait(self, sandbox_id: str) -> None:
        """Wait until a creation has ended, at most a minute; a no-op if none is under way."""
        creation = self._open.get(sandbox_id)
        if creation is not None:
            await creation.wait()
