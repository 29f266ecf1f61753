"""Tools for commands: run them, run them in the background, read their output, kill them."""

from __future__ import annotations

import signal as signals
from typing import TYPE_CHECKING, Annotated

from anyio import to_thread
from mcp.server.mcpserver import Context
from pydantic import Field

from mcp_server.audit.entry import annotate_call
from mcp_server.wire import limit_ms
from vmm.errors import InvalidInput
from vmm.guest.values import Command

from .caller import caller
from .output import budget_of
from .progress import ProgressReporter
from .report import outcome_text, output_text, process_line
from .tool_spec import ACTS, NO_PAIRS, READS, REPLACES, Pairs, SandboxRef, ToolSpec

if TYPE_CHECKING:
    from vmm.fleet import Fleet
    from vmm.guest.values import Outcome

WAIT_MOST_S = 50
"""Clients time out after about a minute, whatever they document."""

_TIMEOUT_MOST_S = 7 * 86400
_COMMAND_LENGTH = 100_000
_LISTED = 100

ShellLine = Annotated[str, Field(description="Shell command line, bash")]
Cwd = Annotated[str, Field(description="Absolute; default the home directory")]
Wait = Annotated[float, Field(description="Seconds to wait for the end, at most 50")]
Timeout = Annotated[float, Field(description="Kill it after these seconds; 0 = never")]
MaxOutput = Annotated[int, Field(description="Characters, at most 80000; default 16000")]


class CommandTools:
    """The tools that run commands in a sandbox."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def tool_specs(self) -> list[ToolSpec]:
        """List the tools of this module."""
        return [
            ToolSpec(function=self.execute_command, hints=ACTS, core=True),
            ToolSpec(function=self.run_background_command, hints=ACTS),
            ToolSpec(function=self.list_processes, hints=READS),
            ToolSpec(function=self.read_process_output, hints=READS, core=True),
            ToolSpec(function=self.kill_process, hints=REPLACES),
        ]

    async def execute_command(
        self,
        ctx: Context,
        ref: SandboxRef,
        command: ShellLine,
        cwd: Cwd = "",
        env: Pairs = NO_PAIRS,
        timeout: Timeout = 300,
        wait: Wait = 30,
        max_output: MaxOutput = 0,
    ) -> str:
        """Run a command and return its output, [stderr] and exit code.

        If it takes longer than `wait`, it goes on in the background: you get its pid and the output so far, and read on
        with read_process_output. Each call is a new shell: cd and variables do not last; for that, open a terminal.
        Output beyond max_output is cut in the middle; lines that look like errors are kept.
        """
        program = Command(shell=_checked_line(command), cwd=cwd.strip(), env=env, timeout_ms=timeout_ms(timeout))
        waiting = wait_ms(wait)
        outcome = await ProgressReporter(ctx).during(
            lambda: self._fleet.guest.exec(caller().org_id, ref, program, wait_ms=waiting), f"running {command[:60]}"
        )
        return await render(outcome, ref, max_output=max_output, timeout=timeout)

    async def run_background_command(
        self,
        ref: SandboxRef,
        command: ShellLine,
        cwd: Cwd = "",
        env: Pairs = NO_PAIRS,
        timeout: Timeout = 0,
    ) -> str:
        """Start a command, such as a server, and return its pid at once. It runs until it ends or is killed."""
        info = await self._fleet.guest.start(
            caller().org_id,
            ref,
            Command(shell=_checked_line(command), cwd=cwd.strip(), env=env, timeout_ms=timeout_ms(timeout)),
            background=True,
        )
        return f"Started as pid {info.pid}. Its output: read_process_output with pid {info.pid}."

    async def list_processes(self, ref: SandboxRef) -> str:
        """List the commands started by these tools, newest first, finished ones too."""
        found = await self._fleet.guest.processes(caller().org_id, ref)
        if not found:
            return "No command has been started in this sandbox yet."
        newest = sorted(found, key=lambda info: (info.started_ms, info.pid), reverse=True)
        lines = [process_line(info) for info in newest[:_LISTED]]
        if len(newest) > _LISTED:
            lines.append(f"[{len(newest) - _LISTED} older ones left out]")
        return "\n".join(lines)

    async def read_process_output(
        self,
        ctx: Context,
        ref: SandboxRef,
        pid: int,
        stdout_offset: Annotated[int, Field(description="Bytes to skip")] = 0,
        stderr_offset: int = 0,
        wait: Annotated[float, Field(description="Seconds to wait for something new, at most 50")] = 0,
        max_output: MaxOutput = 0,
    ) -> str:
        """Read what a command wrote from the given offsets on, while it runs and after its end."""
        if stdout_offset < 0 or stderr_offset < 0:
            offset = min(stdout_offset, stderr_offset)
            raise InvalidInput(f"offset: {offset} is negative", hint="list_processes shows how much was written")
        waiting = wait_ms(wait)
        output = await ProgressReporter(ctx).during(
            lambda: self._fleet.guest.read_output(
                caller().org_id,
                ref,
                pid,
                stdout_offset=stdout_offset,
                stderr_offset=stderr_offset,
                max_bytes=budget_of(max_output) // 2,
                wait_ms=waiting,
                explain=True,
            ),
            f"waiting for pid {pid}",
        )
        return output_text(output, ref, stdout_from=stdout_offset, stderr_from=stderr_offset)

    async def kill_process(
        self,
        ref: SandboxRef,
        pid: int,
        signal: Annotated[str, Field(description="Such as INT or TERM")] = "KILL",
    ) -> str:
        """Kill a command and everything it started. Its output stays readable."""
        number = _signal(signal)
        await self._fleet.guest.signal(caller().org_id, ref, pid, number)
        return f"Sent {signals.Signals(number).name} to pid {pid} and everything it started."


def _checked_line(command: str) -> str:
    if not command.strip():
        raise InvalidInput("command is empty", hint="Give a shell command line, such as ls -la")
    if len(command) > _COMMAND_LENGTH:
        raise InvalidInput(
            f"command must have at most {_COMMAND_LENGTH} characters, got {len(command)}",
            hint="Write a script with write_file and run that",
        )
    return command


async def render(outcome: Outcome, ref: str, *, max_output: int, timeout: float) -> str:
    """Render a command's result as text, and record its exit code for the audit; long results are shaped in a thread.

    Args:
        outcome: The command's outcome.
        ref: Id or name of its sandbox.
        max_output: The number of characters that the caller asked for.
        timeout: The command's time limit, in seconds.
    """
    annotate_call(exit_code=outcome.exit_code)
    budget = budget_of(max_output)
    if outcome.stdout.total + outcome.stderr.total <= budget:
        return outcome_text(outcome, ref, budget=budget, timeout_s=timeout)
    return await to_thread.run_sync(lambda: outcome_text(outcome, ref, budget=budget, timeout_s=timeout))


def timeout_ms(seconds: float) -> int:
    """Convert a timeout to milliseconds.

    Raises:
        InvalidInput: The timeout is out of range.
    """
    if not 0 <= seconds <= _TIMEOUT_MOST_S:
        raise InvalidInput(f"timeout: {seconds:g} s is out of range", hint=f"Use 0 (never) to {_TIMEOUT_MOST_S}")
    return limit_ms(seconds)


def wait_ms(seconds: float) -> int:
    """Convert a wait to milliseconds, limited to what clients tolerate.

    Raises:
        InvalidInput: The wait is negative.
    """
    if not seconds >= 0:
        raise InvalidInput(f"wait: {seconds:g} s is out of range", hint=f"Use 0 to {WAIT_MOST_S}")
    return int(min(seconds, WAIT_MOST_S) * 1000)


def _signal(name: str) -> int:
    wanted = name.strip().upper()
    number = {str(int(one)): one.value for one in signals.Signals}.get(wanted)
    if number is not None:
        return number
    try:
        return signals.Signals[wanted if wanted.startswith("SIG") else f"SIG{wanted}"].value
    except KeyError:
        raise InvalidInput(f"signal: {name[:40]!r} is unknown", hint="Use TERM, INT, HUP, KILL, USR1 or USR2") from None
