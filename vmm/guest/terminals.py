"""The link's calls about terminals, which run in the guest and outlive every connection."""

from __future__ import annotations

from . import checks
from .caller import Caller
from .decoding import plain, slices
from .values import KIB, TerminalInfo, TerminalOutput


class TerminalCalls(Caller):
    """Open, type into, read and close pseudo-terminals.

    Every call with a terminal id raises ProcessMissing if there is none with that id.
    """

    async def terminal_open(
        self,
        *,
        cols: int = 80,
        rows: int = 24,
        command: str = "",
        cwd: str = "",
        env: dict[str, str] | None = None,
        user: str = "",
    ) -> TerminalInfo:
        """Open a terminal that runs a shell line, or the user's login shell.

        Raises:
            InvalidInput: A size out of range, an unknown user, or no such directory.
            GuestError: Too many are open.
        """
        checks.size(cols, rows)
        arguments = checks.execution_context(cwd, env or {}, user)
        reply = await self._call(
            "terminal_open", cols=cols, rows=rows, command=checks.argument(command, "command"), more=arguments
        )
        return plain(TerminalInfo, reply.value)

    async def terminals(self) -> tuple[TerminalInfo, ...]:
        """List all open terminals, oldest first."""
        reply = await self._call("terminals")
        return tuple(plain(TerminalInfo, value) for value in reply.value["terminals"])

    async def terminal_input(self, terminal_id: str, data: bytes) -> None:
        """Type into a terminal.

        Raises:
            GuestError: The program has ended, or does not read its input.
        """
        await self._call("terminal_input", body=checks.typed(data), terminal_id=terminal_id)

    async def terminal_resize(self, terminal_id: str, *, cols: int, rows: int) -> None:
        """Change the size, and notify the program."""
        checks.size(cols, rows)
        await self._call("terminal_resize", terminal_id=terminal_id, cols=cols, rows=rows)

    async def terminal_read(
        self, terminal_id: str, *, offset: int = 0, max_bytes: int = 256 * KIB, wait_ms: int = 0
    ) -> TerminalOutput:
        """Read output from an offset on; the last MiB is kept.

        Args:
            terminal_id: The terminal.
            offset: Where to begin.
            max_bytes: At most 4 MiB.
            wait_ms: How long to wait for something new or the end; 0 answers at once.
        """
        reply = await self._call(
            "terminal_read",
            own_s=checks.count(wait_ms, "wait_ms") / 1000,
            most_data=max_bytes,
            terminal_id=terminal_id,
            offset=checks.count(offset, "offset"),
            max_bytes=checks.count(max_bytes, "max_bytes", minimum=1),
            wait_ms=wait_ms,
        )
        (output,) = slices(reply, "output")
        return TerminalOutput(info=plain(TerminalInfo, reply.value["info"]), output=output)

    async def terminal_close(self, terminal_id: str) -> None:
        """Hang up, kill the processes that do not end, and forget the terminal."""
        await self._call("terminal_close", terminal_id=terminal_id)
