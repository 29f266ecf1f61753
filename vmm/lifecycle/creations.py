"""Creations that go on after their caller was answered, for the calls that need the sandbox to wait for."""

from __future__ import annotations

import anyio

_WAIT_S = 60.0
"""Three times what the template of a new size takes on a host without KVM."""


class Creations:
    """The creations that are under way in the background."""

    def __init__(self) -> None:
        self._ends: dict[str, anyio.Event] = {}

    def begin(self, sandbox_id: str) -> None:
        """Note that a creation begins."""
        self._ends[sandbox_id] = anyio.Event()

    def end(self, sandbox_id: str) -> None:
        """Let the calls that wait for a creation go on, whatever became of it."""
        self._ends.pop(sandbox_id).set()

    async def wait(self, sandbox_id: str) -> None:
        """Wait until a creation has ended, at most a minute; a no-op if none is under way."""
        end = self._ends.get(sandbox_id)
        if end is not None:
            with anyio.move_on_after(_WAIT_S):
                await end.wait()
