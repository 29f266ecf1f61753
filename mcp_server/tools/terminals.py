"""Tools for terminals: type as a person would, and see the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from vmm.errors import InvalidInput

from ..terminals.keystrokes import encode
from ..terminals.screens import Screens
from ..terminals.view_text import view_text
from .caller import caller
from .commands import WAIT_MOST_S, Cwd
from .progress import ProgressReporter
from .tool_spec import ACTS, READS, REPLACES, SandboxRef, ToolSpec

if TYPE_CHECKING:
    from vmm.fleet import Fleet

_COLS = (20, 300)
_ROWS = (5, 100)
_TEXT_LENGTH = 100_000
_SETTLE_MOST_MS = 10_000
_NO_KEYS: list[str] = []

Terminal = Annotated[str, Field(description="From terminal_open")]
Keys = Annotated[list[str], Field(description="Pressed after the text: enter, tab, escape, up, ctrl-c, f1 ...")]
Wait = Annotated[float, Field(description="Seconds to wait at most, up to 50")]
SettleMs = Annotated[int, Field(description="The screen is at rest after so long without output")]
Until = Annotated[str, Field(description="Wait until this plain text is on the screen")]


class TerminalTools:
    """The tools for terminals."""

    def __init__(self, fleet: Fleet, screens: Screens) -> None:
        self._fleet = fleet
        self._screens = screens

    def tool_specs(self) -> list[ToolSpec]:
        """List the tools of this module."""
        return [
            ToolSpec(function=self.terminal_open, hints=ACTS),
            ToolSpec(function=self.terminal_send, hints=ACTS),
            ToolSpec(function=self.terminal_snapshot, hints=READS),
            ToolSpec(function=self.terminal_close, hints=REPLACES),
        ]

    async def terminal_open(
        self,
        ctx: Context,
        ref: SandboxRef,
        command: Annotated[str, Field(description="Default: a login shell")] = "",
        cols: int = 80,
        rows: int = 24,
        cwd: Cwd = "",
    ) -> str:
        """Open a terminal for interactive programs (shells, REPLs, editors) and show its screen.

        It keeps its directory, variables and programs between calls. Type with terminal_send.
        """
        _check("cols", cols, _COLS)
        _check("rows", rows, _ROWS)
        owner = caller().org_id
        info = await self._fleet.guest.terminal_open(owner, ref, cols=cols, rows=rows, command=command, cwd=cwd.strip())
        return await self._look(ctx, ref, info.terminal_id, wait=5, settle_ms=300, pattern="")

    async def terminal_send(
        self,
        ctx: Context,
        ref: SandboxRef,
        terminal_id: Terminal,
        text: Annotated[str, Field(description="Typed as it is")] = "",
        keys: Annotated[
            list[str], Field(description="Pressed after the text: enter, tab, escape, up, ctrl-c, f1 ...")
        ] = _NO_KEYS,
        wait: Wait = 5,
        settle_ms: SettleMs = 300,
        pattern: Until = "",
    ) -> str:
        """Type into a terminal, then show its screen. A command line needs keys ["enter"] to run."""
        if not text and not keys:
            raise InvalidInput("Nothing to send", hint='Give text, or keys such as ["enter"]')
        if len(text) > _TEXT_LENGTH:
            raise InvalidInput(
                f"text must have at most {_TEXT_LENGTH} characters, got {len(text)}", hint="Send it in parts"
            )
        owner = caller().org_id
        sandbox = await self._fleet.sandboxes.get(owner, ref)
        application = self._screens.application_cursor(sandbox, terminal_id)
        data = text.encode("utf-8", "replace") + encode(keys, application_cursor=application)
        await self._fleet.guest.terminal_input(owner, sandbox.id, terminal_id, data)
        return await self._look(ctx, sandbox.id, terminal_id, wait=wait, settle_ms=settle_ms, pattern=pattern)

    async def terminal_snapshot(
        self,
        ctx: Context,
        ref: SandboxRef,
        terminal_id: Terminal,
        wait: Wait = 5,
        settle_ms: SettleMs = 300,
        pattern: Until = "",
    ) -> str:
        """Show a terminal's screen as text, with cursor and size, as soon as it is at rest or shows the pattern."""
        return await self._look(ctx, ref, terminal_id, wait=wait, settle_ms=settle_ms, pattern=pattern)

    async def terminal_close(self, ref: SandboxRef, terminal_id: Terminal) -> str:
        """Close a terminal and end its programs."""
        owner = caller().org_id
        sandbox = await self._fleet.sandboxes.get(owner, ref)
        self._screens.forget(sandbox, terminal_id)
        await self._fleet.guest.terminal_close(owner, sandbox.id, terminal_id)
        return "Closed."

    async def _look(
        self, ctx: Context, ref: str, terminal_id: str, *, wait: float, settle_ms: int, pattern: str
    ) -> str:
        if not wait >= 0:
            raise InvalidInput(f"wait: {wait:g} s is out of range", hint=f"Use 0 to {WAIT_MOST_S}")
        _check("settle_ms", settle_ms, (1, _SETTLE_MOST_MS))
        sandbox = await self._fleet.sandboxes.get(caller().org_id, ref)
        view = await ProgressReporter(ctx).during(
            lambda: self._screens.look(
                sandbox,
                terminal_id,
                wait_ms=int(min(wait, WAIT_MOST_S) * 1000),
                settle_ms=settle_ms,
                text=pattern,
            ),
            "watching the terminal",
        )
        return view_text(view, awaited=pattern)


def _check(name: str, value: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not low <= value <= high:
        raise InvalidInput(f"{name}: {value} is out of range", hint=f"Use {low} to {high}")
