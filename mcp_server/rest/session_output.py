"""The answer of a session's command with much output, which is read from the sandbox while the answer is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .long_text import LongText, escaped
from .streaming import Streamed, while_connected

if TYPE_CHECKING:
    from starlette.types import Receive

    from vmm.fleet import Fleet
    from vmm.guest.values import OutputSlice, SessionOutcome, SessionState

    from .shapes.commands import SessionDetails
    from .streaming import Answer

_HEADERS = {"content-type": "application/json"}


class LongSessionOutput(Streamed):
    """Sends what `outcome_details` describes, of any size, while a piece of it is in memory at a time.

    Args:
        fleet: Runs the sandbox.
        owner: The sandbox's owner.
        ref: The sandbox's id or name.
        session_id: The session.
        outcome: The command's outcome, with the ends of its output.
        timeout_s: The command's time limit in seconds.
    """

    def __init__(
        self, fleet: Fleet, owner: str, ref: str, session_id: str, outcome: SessionOutcome, *, timeout_s: float
    ) -> None:
        super().__init__(self._send)
        self._fleet = fleet
        self._place = (owner, ref, session_id)
        self._outcome = outcome
        self._timeout_s = timeout_s

    async def _send(self, receive: Receive, answer: Answer) -> None:
        async with while_connected(receive):
            output = LongText(self._outcome.output, self._read)
            await answer.begin(200, _HEADERS)
            await answer.write(b'{"success":true,"sessionId":"%s","output":"' % escaped(self._place[2]))
            await output.write(answer)
            details = outcome_details(self._outcome, lost=output.lost, timeout_s=self._timeout_s)
            await answer.write(f'",{json.dumps(details, ensure_ascii=False)[1:]}'.encode())

    async def _read(self, offset: int, limit: int) -> OutputSlice:
        found = await self._fleet.sessions.read(*self._place, self._outcome.number, offset=offset, limit=limit)
        return found.output


def outcome_details(outcome: SessionOutcome, *, lost: int, timeout_s: float) -> SessionDetails:
    """Return the fields beside the output: the exit code, and what else there is to tell.

    Args:
        outcome: The command's outcome.
        lost: Bytes of its output that are missing.
        timeout_s: Its time limit in seconds.
    """
    told = [f"{lost} bytes of output left out"] if lost else []
    if why := why_ended(outcome.state, timeout_s):
        told.append(why)
    details: SessionDetails = {"exitCode": outcome.state.exit_code}
    if told:
        details["error"] = "; ".join(told)
    if outcome.state.timed_out:
        details["timedOut"] = True
    if lost:
        details["truncated"] = True
    if outcome.network:
        details["network"] = outcome.network
    return details


def why_ended(state: SessionState, timeout_s: float) -> str:
    """Say what a command's exit code does not say: that it took too long, and that its session is gone."""
    if state.timed_out and state.ended:
        return f"killed with its session: it took longer than {timeout_s:g} s, and an interrupt did not end it"
    if state.timed_out:
        return f"interrupted: it took longer than {timeout_s:g} s"
    return "the session has ended, because its shell has" if state.ended else ""
