"""The link's calls about sessions: shells in the guest that run one command after the other and keep their state."""

from __future__ import annotations

from vmm.errors import LinkError

from . import checks
from .caller import Caller, Reply
from .decoding import captured, plain, slices
from .values import KIB, SessionOutcome, SessionOutput, SessionState

_START_S = 30.0
"""How long a shell may take to start."""
_INTERRUPT_S = 5.0


class SessionCalls(Caller):
    """Open sessions, run commands in them, and close them.

    Every call with a session's id raises ProcessMissing if there is none with that id, or it has ended.
    """

    async def session_open(
        self,
        session_id: str,
        *,
        shell: str = "",
        cols: int = 80,
        rows: int = 24,
        cwd: str = "",
        env: dict[str, str] | None = None,
    ) -> None:
        """Start a session's shell, and wait until it takes commands.

        Args:
            session_id: The new session's id.
            shell: `bash`, `sh` or `dash`, or the path of one of these; by default bash where the image has it, else sh.
            cols: Columns of its terminal.
            rows: Rows of its terminal.
            cwd: Its directory; empty means the home directory.
            env: Variables added to the guest's default environment.

        Raises:
            InvalidInput: Another shell, a size out of range, or no such directory.
            Conflict: There is a session with this id.
            GuestError: Too many are open, or the shell did not start.
        """
        checks.size(cols, rows)
        arguments = checks.execution_context(cwd, env or {}, "")
        await self._call(
            "session_open",
            own_s=_START_S,
            session_id=session_id,
            shell=checks.text(shell, "shell"),
            cols=cols,
            rows=rows,
            more=arguments,
        )

    async def session_start(self, session_id: str, command: str, *, timeout_ms: int) -> int:
        """Run a command in a session in the background, and return its number.

        Args:
            session_id: The session.
            command: A line, or several, for its shell.
            timeout_ms: It is interrupted after this long, as Ctrl-C does, and killed with its session if that does not
                end it; 0 means never.

        Raises:
            Conflict: Another command runs in the session.
        """
        reply = await self._call(
            "session_start",
            session_id=session_id,
            command=checks.argument(command, "command"),
            timeout_ms=checks.count(timeout_ms, "timeout_ms"),
        )
        number: object = reply.value.get("number")
        if not isinstance(number, int):
            raise LinkError("The guest's answer does not say which number the command has")
        return number

    async def session_wait(
        self, session_id: str, number: int, *, wait_ms: int, keep_head: int = 256 * KIB, keep_tail: int = 256 * KIB
    ) -> SessionOutcome:
        """Wait for a session's last command to end, at most `wait_ms`."""
        reply = await self._call(
            "session_wait",
            own_s=checks.count(wait_ms, "wait_ms") / 1000,
            most_data=keep_head + keep_tail,
            session_id=session_id,
            number=number,
            wait_ms=wait_ms,
            keep_head=checks.count(keep_head, "keep_head"),
            keep_tail=checks.count(keep_tail, "keep_tail"),
        )
        output, _ = captured(reply.value.get("output"), reply.data, 0)
        return SessionOutcome(number=number, state=_state(reply), output=output)

    async def session_read(
        self, session_id: str, number: int, *, offset: int = 0, max_bytes: int = 256 * KIB, wait_ms: int = 0
    ) -> SessionOutput:
        """Read the output of a session's last command from an offset on.

        Args:
            session_id: The session.
            number: The command's number.
            offset: Where to begin.
            max_bytes: At most 4 MiB.
            wait_ms: How long to wait for more output or the end; 0 answers at once.
        """
        reply = await self._call(
            "session_read",
            own_s=checks.count(wait_ms, "wait_ms") / 1000,
            most_data=max_bytes,
            session_id=session_id,
            number=number,
            offset=checks.count(offset, "offset"),
            max_bytes=checks.count(max_bytes, "max_bytes", minimum=1),
            wait_ms=wait_ms,
        )
        total: object = reply.value.get("total")
        if not isinstance(total, int):
            raise LinkError("The guest's answer does not say how much the command has printed")
        (output,) = slices(reply, "output")
        return SessionOutput(state=_state(reply), output=output, total=total)

    async def session_input(self, session_id: str, data: bytes) -> None:
        """Type into a session's terminal.

        Raises:
            GuestError: No command runs in it, or the command does not read its input.
        """
        await self._call("session_input", body=checks.typed(data), session_id=session_id)

    async def session_resize(self, session_id: str, *, cols: int, rows: int) -> None:
        """Change the size of a session's terminal, and notify the program."""
        checks.size(cols, rows)
        await self._call("session_resize", session_id=session_id, cols=cols, rows=rows)

    async def session_interrupt(self, session_id: str, number: int) -> None:
        """Interrupt a session's last command, and wait until it has ended."""
        await self._call("session_interrupt", own_s=_INTERRUPT_S, session_id=session_id, number=number)

    async def session_close(self, session_id: str) -> None:
        """Hang up, kill the processes that do not end, and forget the session."""
        await self._call("session_close", session_id=session_id)


def _state(reply: Reply) -> SessionState:
    names = ("running", "exit_code", "timed_out", "ended")
    return plain(SessionState, {name: reply.value.get(name) for name in names})
