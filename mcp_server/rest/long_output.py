"""The answer of a command with much output, which is read from the sandbox while the answer is sent."""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING

import structlog

from vmm.errors import CasemateError
from vmm.guest.values import MIB

from .outcome import notices, outcome_fields
from .streaming import Streamed, while_connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive

    from vmm.fleet import Fleet
    from vmm.guest.values import Outcome

    from .streaming import Answer

MOST = 64 * MIB
"""Bytes of each stream in an answer; of longer ones, the last bytes follow the first ones."""
_PIECE = MIB // 4
"""Bytes that are read and converted at once, which takes a few milliseconds even if JSON escapes each of them."""
_NOWHERE = 2**62
"""An offset beyond the end of any stream."""
_HEADERS = {"content-type": "application/json"}
_log = structlog.stdlib.get_logger("casemate.rest")


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
        await answer.begin(200, _HEADERS)
        await answer.write(b'{"status":"success","message":"ok","data":{"stdout":"')
        lost, end = {"stdout": 0, "stderr": 0}, ""
        for name in lost:
            if name == "stderr":
                await answer.write(b'","stderr":"')
            decode = codecs.getincrementaldecoder("utf-8")("replace").decode
            async for data in self._stream(name, lost):
                text = decode(data)
                await answer.write(_escaped(text))
                end = text or end
            await answer.write(_escaped(decode(b"", final=True)))
        stderr = end if self._outcome.stderr.total else ""
        await answer.write(_escaped(notices(self._outcome, stderr, lost, self._timeout_s)))
        fields = {name: value for name, value in self._fields.items() if name != "truncated"}
        if any(lost.values()):
            fields["truncated"] = True
        await answer.write(f'",{json.dumps(fields, ensure_ascii=False)[1:]}}}'.encode())

    async def _stream(self, name: str, lost: dict[str, int]) -> AsyncGenerator[bytes]:
        """Yield the bytes of a stream, and count in `lost` what is missing between them."""
        captured = self._outcome.stdout if name == "stdout" else self._outcome.stderr
        if captured.head:
            yield captured.head
        offset, tail_start = len(captured.head), captured.total - len(captured.tail)
        until = min(tail_start, MOST)
        while offset < until:
            begun, data = await self._read(name, offset, min(_PIECE, until - offset))
            if not data or begun >= until:
                break
            lost[name] += begun - offset
            offset = begun + len(data)
            yield data
        lost[name] += max(tail_start - offset, 0)
        if captured.tail:
            yield captured.tail[max(offset - tail_start, 0) :]

    async def _read(self, name: str, offset: int, limit: int) -> tuple[int, bytes]:
        """Read a piece, and tell where it begins: later if something is missing there. Nothing if it cannot be read."""
        places = {"stdout": _NOWHERE, "stderr": _NOWHERE, name: offset}
        try:
            found = await self._fleet.guest.read_output(
                *self._place,
                self._outcome.pid,
                stdout_offset=places["stdout"],
                stderr_offset=places["stderr"],
                max_bytes=limit,
            )
        except CasemateError as error:
            # What was said of the command stays true, so the answer goes on and tells what is missing.
            _log.info("output not read", pid=self._outcome.pid, reason=error.message)
            return offset, b""
        piece = found.stdout if name == "stdout" else found.stderr
        return piece.offset, piece.data


def _escaped(text: str) -> bytes:
    """Return a text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()
