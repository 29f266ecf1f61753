"""The answer of a command with much output, which is read from the sandbox while the answer is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .long_text import LongText, escaped
from .outcome import notices, outcome_fields
from .streaming import Streamed, while_connected

if TYPE_CHECKING:
    from starlette.types import Receive

    from vmm.fleet import Fleet
    from vmm.guest.values import Outcome, OutputSlice

    from .streaming import Answer

_NOWHERE = 2**62
"""An offset beyond the end of any stream."""
_HEADERS = {"content-type": "application/json"}


class LongOutput(Streamed):
    """Sends what `outcome_object` describes, of any size, while a piece of it is in memory at a time.

    Args:
        fleet: Runs the sandbox.
        owner: The sandbox's owner.
        ref: The sandbox's id or name.
        outcome: The command's outcome, with the ends of its output.
        timeout_s: The command's time limit in seconds.
    """

    def __init__(self, fleet: Fleet, owner: str, ref: str, outcome: Outcome, *, timeout_s: float) -> None:
        super().__init__(self._send)
        self._fleet = fleet
        self._place = (owner, ref)
        self._outcome = outcome
        self._timeout_s = timeout_s
        self._fields = outcome_fields(outcome)

    async def _send(self, receive: Receive, answer: Answer) -> None:
        async with while_connected(receive):
            await self._write(answer)

    async def _write(self, answer: Answer) -> None:
        stdout = LongText(self._outcome.stdout, self._stdout)
        stderr = LongText(self._outcome.stderr, self._stderr)
        await answer.begin(200, _HEADERS)
        await answer.write(b'{"status":"success","message":"ok","data":{"stdout":"')
        await stdout.write(answer)
        await answer.write(b'","stderr":"')
        await stderr.write(answer)
        lost = {"stdout": stdout.lost, "stderr": stderr.lost}
        await answer.write(escaped(notices(self._outcome, stderr.end, lost, self._timeout_s)))
        fields = {name: value for name, value in self._fields.items() if name != "truncated"}
        if any(lost.values()):
            fields["truncated"] = True
        await answer.write(f'",{json.dumps(fields, ensure_ascii=False)[1:]}}}'.encode())

    async def _stdout(self, offset: int, limit: int) -> OutputSlice:
        found = await self._fleet.guest.read_output(
            *self._place, self._outcome.pid, stdout_offset=offset, stderr_offset=_NOWHERE, max_bytes=limit
        )
        return found.stdout

    async def _stderr(self, offset: int, limit: int) -> OutputSlice:
        found = await self._fleet.guest.read_output(
            *self._place, self._outcome.pid, stdout_offset=_NOWHERE, stderr_offset=offset, max_bytes=limit
        )
        return found.stderr
