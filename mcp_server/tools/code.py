"""The tool that runs a piece of code as a program."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import anyio
from mcp.server.mcpserver import Context
from pydantic import Field

from vmm.errors import CasemateError, GuestError, InvalidInput
from vmm.guest.values import Command

from .caller import caller
from .commands import Cwd, MaxOutput, Timeout, Wait, render, timeout_ms, wait_ms
from .languages import Attempt, Language, language_of
from .progress import ProgressReporter
from .tool_spec import ACTS, NO_PAIRS, Pairs, SandboxRef, ToolSpec

if TYPE_CHECKING:
    from vmm.fleet import Fleet
    from vmm.guest.values import Outcome

_CODE_LENGTH = 4 * 1024 * 1024
_INLINE_LENGTH = 100_000
_CLEANING_S = 5


class CodeTools:
    """The tool for code."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def tool_specs(self) -> list[ToolSpec]:
        """List the tools of this module."""
        return [ToolSpec(function=self.run_code, hints=ACTS, core=True)]

    async def run_code(
        self,
        ctx: Context,
        ref: SandboxRef,
        code: str,
        language: Annotated[str, Field(description="python, javascript, typescript or bash")] = "python",
        cwd: Cwd = "",
        env: Pairs = NO_PAIRS,
        timeout: Timeout = 300,
        wait: Wait = 30,
        max_output: MaxOutput = 0,
    ) -> str:
        """Run a piece of code as a separate program; print what you want to see. Otherwise like execute_command."""
        chosen = language_of(language)
        if not code.strip():
            raise InvalidInput("code is empty", hint="Give the source text of a program")
        if len(code) > _CODE_LENGTH:
            raise InvalidInput(
                f"code must have at most {_CODE_LENGTH} characters, got {len(code)}",
                hint="Write it to a file and run that",
            )
        command = Command(cwd=cwd.strip(), env=env, timeout_ms=timeout_ms(timeout))
        waiting = wait_ms(wait)
        outcome = await ProgressReporter(ctx).during(
            lambda: self._run(caller().org_id, ref, chosen, code, command, waiting), f"running {chosen.name}"
        )
        return await render(outcome, ref, max_output=max_output, timeout=timeout)

    async def _run(
        self, owner: str, ref: str, language: Language, code: str, command: Command, waiting: int
    ) -> Outcome:
        if language.name == "bash" and len(code) <= _INLINE_LENGTH:
            return await self._fleet.guest.exec(owner, ref, replace(command, shell=code), wait_ms=waiting)
        until = anyio.current_time() + waiting / 1000
        *likely, last = language.attempts(code)
        for attempt in likely:
            file, outcome = await self._run_file(owner, ref, language, attempt, code, command, waiting)
            if not (outcome.exit_code and attempt.refuses(file, outcome.stderr.data())):
                return outcome
            waiting = max(int((until - anyio.current_time()) * 1000), 0)
        _, outcome = await self._run_file(owner, ref, language, last, code, command, waiting)
        return outcome

    async def _run_file(
        self, owner: str, ref: str, language: Language, attempt: Attempt, code: str, command: Command, waiting: int
    ) -> tuple[str, Outcome]:
        file = await self._write(owner, ref, language.places(command.cwd, attempt.suffix), code)
        running = False
        try:
            outcome = await self._fleet.guest.exec(
                owner, ref, replace(command, argv=(*attempt.program, file)), wait_ms=waiting
            )
            running = outcome.running
        finally:
            # Modules are loaded completely and can go at once; other programs may still read their source.
            if language.in_cwd or not running:
                await self._remove(owner, ref, file)
        return file, outcome

    async def _write(self, owner: str, ref: str, places: tuple[str, ...], code: str) -> str:
        """Write the source to the first place that is writable."""
        data = code.encode("utf-8", "replace")
        for place in places[:-1]:
            try:
                await self._fleet.guest.write_file(owner, ref, place, data, make_parents=False)
            except GuestError:
                # Not writable, or missing: the program itself will report what is wrong with its directory.
                continue
            return place
        await self._fleet.guest.write_file(owner, ref, places[-1], data)
        return places[-1]

    async def _remove(self, owner: str, ref: str, file: str) -> None:
        with anyio.move_on_after(_CLEANING_S, shield=True):
            try:
                await self._fleet.guest.delete_path(owner, ref, file)
            except CasemateError:
                # The file or the machine is gone already.
                return
