"""A long stream of output as text in JSON: its ends are known, and the rest is read while it is sent."""

from __future__ import annotations

import codecs
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from vmm.errors import CasemateError
from vmm.guest.values import MIB

if TYPE_CHECKING:
    from vmm.guest.values import Captured, OutputSlice

    from .streaming import Answer

MOST = 64 * MIB
"""Bytes of a stream in an answer; of longer ones, the last bytes follow the first ones."""
_PIECE = MIB // 4
"""Bytes that are read and converted at once, which takes a few milliseconds even if JSON escapes each of them."""
_log = structlog.stdlib.get_logger("casemate.rest")

Read = Callable[[int, int], Awaitable["OutputSlice"]]
"""Reads a stream from an offset on, at most so many bytes."""


class LongText:
    """One stream.

    Args:
        captured: Its ends.
        read: Reads what is between them.

    Attributes:
        lost: Bytes that are missing in what was sent.
        end: The last text that was sent, apart from an unfinished character.
    """

    def __init__(self, captured: Captured, read: Read) -> None:
        self.lost = 0
        self.end = ""
        self._captured = captured
        self._read = read

    async def write(self, answer: Answer) -> None:
        """Send the text as it stands between the quotes of a JSON string; a piece of it is in memory at a time."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        async for data in self._pieces():
            text = decode(data)
            await answer.write(escaped(text))
            self.end = text or self.end
        await answer.write(escaped(decode(b"", final=True)))

    async def _pieces(self) -> AsyncGenerator[bytes]:
        captured = self._captured
        if captured.head:
            yield captured.head
        offset, tail_start = len(captured.head), captured.total - len(captured.tail)
        until = min(tail_start, MOST)
        while offset < until:
            begun, data = await self._piece(offset, min(_PIECE, until - offset))
            if not data or begun >= until:
                break
            self.lost += begun - offset
            offset = begun + len(data)
            yield data
        self.lost += max(tail_start - offset, 0)
        if captured.tail:
            yield captured.tail[max(offset - tail_start, 0) :]

    async def _piece(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Read a piece, and tell where it begins: later if something is missing there. Nothing if it cannot be read."""
        try:
            found = await self._read(offset, limit)
        except CasemateError as error:
            # What was said of the command stays true, so the answer goes on and tells what is missing.
            _log.info("output not read", reason=error.message)
            return offset, b""
        return found.offset, found.data


def escaped(text: str) -> bytes:
    """Return a text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()
