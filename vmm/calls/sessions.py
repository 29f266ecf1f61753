"""Calls to the sessions of a sandbox: shells that run one command after the other and keep their state."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import structlog

from ..errors import CasemateError
from ..guest.link import GuestLink
from ..guest.values import KIB, MIB, SessionOutcome, SessionOutput
from .guest import GuestCalls
from .network import NetworkCalls

_ROUND_MS = 20_000
_PIECE = 64 * KIB
_KEEP_HEAD = 256 * KIB
_KEEP_TAIL = MIB
_INTERRUPT_S = 20
_log = structlog.stdlib.get_logger("casemate.sessions")


class SessionCalls:
    """What an owner may do with the sessions of a sandbox; its id or name comes second.

    Args:
        guest: Connects to the guests.
        network: Knows which of their connections were refused.
    """

    def __init__(self, guest: GuestCalls, network: NetworkCalls) -> None:
        self._guest = guest
        self._network = network

    async def open(
        self,
        owner: str,
        ref: str,
        session_id: str,
        *,
        shell: str = "",
        cols: int = 80,
        rows: int = 24,
        cwd: str = "",
        env: dict[str, str] | None = None,
    ) -> None:
        """Open a session; it ends with its shell or with the sandbox. The arguments are those of the link."""
        async with self._guest.reach(owner, ref) as (sandbox, link):
            merged = {**sandbox.env, **(env or {})}
            await link.session_open(session_id, shell=shell, cols=cols, rows=rows, cwd=cwd, env=merged)

    async def run(self, owner: str, ref: str, session_id: str, command: str, *, timeout_ms: int) -> SessionOutcome:
        """Run a command and wait for its end; cancelling the wait interrupts the command."""
        async with self._guest.reach(owner, ref) as (sandbox, link):
            network = self._network.of(sandbox)
            async with _running(link, session_id, command, timeout_ms) as number:
                while True:
                    outcome = await link.session_wait(
                        session_id, number, wait_ms=_ROUND_MS, keep_head=_KEEP_HEAD, keep_tail=_KEEP_TAIL
                    )
                    if not outcome.state.running:
                        return replace(outcome, network=network.refusals())
        raise AssertionError  # unreachable: the block either returns or raises

    @asynccontextmanager
    async def follow(
        self, owner: str, ref: str, session_id: str, command: str, *, timeout_ms: int
    ) -> AsyncGenerator[AsyncIterator[SessionOutput]]:
        """Run a command and follow its output; cancelling the block, or an error in it, interrupts the command.

        The iterator gives an empty piece where nothing was printed for a while, and its last piece has the exit code.
        """
        async with (
            self._guest.reach(owner, ref) as (_, link),
            _running(link, session_id, command, timeout_ms) as number,
        ):
            yield _Output(link, session_id, number)

    async def read(
        self, owner: str, ref: str, session_id: str, number: int, *, offset: int, limit: int
    ) -> SessionOutput:
        """Read the output of a session's last command from an offset on.

        Raises:
            ProcessMissing: The session has ended, or run another command since.
        """
        async with self._guest.reach(owner, ref) as (_, link):
            return await link.session_read(session_id, number, offset=offset, max_bytes=limit)

    async def input(self, owner: str, ref: str, session_id: str, data: bytes) -> None:
        """Type into the terminal of the command that runs."""
        async with self._guest.reach(owner, ref) as (_, link):
            await link.session_input(session_id, data)

    async def resize(self, owner: str, ref: str, session_id: str, *, cols: int, rows: int) -> None:
        """Change the size of a session's terminal."""
        async with self._guest.reach(owner, ref) as (_, link):
            await link.session_resize(session_id, cols=cols, rows=rows)

    async def close(self, owner: str, ref: str, session_id: str) -> None:
        """Close a session and end what runs in it."""
        async with self._guest.reach(owner, ref) as (_, link):
            await link.session_close(session_id)


class _Output:
    """The pieces of a command's output up to its end."""

    def __init__(self, link: GuestLink, session_id: str, number: int) -> None:
        self._link = link
        self._command = (session_id, number)
        self._offset = 0
        self._over = False

    def __aiter__(self) -> AsyncIterator[SessionOutput]:
        return self

    async def __anext__(self) -> SessionOutput:
        if self._over:
            raise StopAsyncIteration
        found = await self._link.session_read(*self._command, offset=self._offset, max_bytes=_PIECE, wait_ms=_ROUND_MS)
        self._offset = found.output.next_offset
        self._over = not found.state.running and self._offset >= found.total
        return found


@asynccontextmanager
async def _running(link: GuestLink, session_id: str, command: str, timeout_ms: int) -> AsyncGenerator[int]:
    """Run a command for the length of a block, which ends normally only after the command."""
    number = await link.session_start(session_id, command, timeout_ms=timeout_ms)
    try:
        yield number
    except BaseException:
        with anyio.move_on_after(_INTERRUPT_S, shield=True):
            try:
                await link.session_interrupt(session_id, number)
            except CasemateError as error:
                # It has ended already, alone or with its sandbox; otherwise its time limit ends it.
                _log.info("command of a session not interrupted", reason=error.message)
        raise
