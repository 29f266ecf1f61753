"""Uploads that keep the guest busy long after their data was sent; meanwhile the guest sends signs of life."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable

import anyio

from vmm.agent import frames
from vmm.errors import LinkError, LinkTimeout

from .caller import Reply
from .connection import Connection, refusal, unpack

_PIECE = 32 * 1024
"""Bytes of a frame; with tiny files, even this much is the work of a hundred files."""
_LAST_WORD = 1.0


class Upload:
    """One operation that uploads data.

    It has no time limit in total, but sending a frame and the guest's silence may not last longer than a call's
    patience. While the source sends nothing, the guest may be silent.
    """

    def __init__(self, connection: Connection, name: str, patience_s: float) -> None:
        self._connection = connection
        self._name = name
        self._patience_s = patience_s
        self._due = math.inf
        self._failure: Exception | None = None
        self._reply: Reply | None = None

    async def run(self, request: bytes, chunks: AsyncIterable[bytes]) -> Reply:
        """Send everything, and return the answer.

        Raises:
            CasemateError: The guest refused.
            LinkError: The connection broke.
            LinkTimeout: The guest was silent for too long.
            Exception: Whatever `chunks` raised.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send, request, chunks, tasks.cancel_scope)
            tasks.start_soon(self._watch, tasks.cancel_scope)
            await self._listen()
            tasks.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        if self._reply is None:
            raise LinkTimeout(f"The guest gave no sign of life in {self._name!r} for {self._patience_s:g} s")
        return self._reply

    async def _send(self, request: bytes, chunks: AsyncIterable[bytes], scope: anyio.CancelScope) -> None:
        try:
            await self._step(request)
            async for chunk in chunks:
                for start in range(0, len(chunk), _PIECE):
                    await self._step(frames.pack(frames.DATA, chunk[start : start + _PIECE]))
                self._due = math.inf
            await self._step(frames.pack(frames.END))
        except LinkError as error:
            self._failure = error
            self._due = anyio.current_time() + _LAST_WORD  # the guest's reason may still arrive
        except Exception as error:  # an error of the source, raised again in the caller
            self._failure = error
            scope.cancel()

    async def _step(self, data: bytes) -> None:
        self._alive()
        await self._connection.send(data)
        self._alive()

    async def _listen(self) -> None:
        try:
            while not self._take(*await self._connection.receive()):
                pass
        except LinkError as error:
            self._failure = self._failure or error

    def _take(self, kind: int, payload: bytes) -> bool:
        """Handle a frame from the guest, and tell whether it was the last."""
        if kind == frames.RESULT:
            self._reply = Reply(value=unpack(payload), data=b"")
        elif kind == frames.ERROR:
            self._failure = refusal(payload)
        elif kind != frames.DATA or payload:
            self._failure = LinkError(f"The guest answered with an unexpected frame of kind {kind}")
        else:
            if self._due != math.inf:
                self._alive()
            return False
        return True

    def _alive(self) -> None:
        if self._failure is None:
            self._due = anyio.current_time() + self._patience_s

    async def _watch(self, scope: anyio.CancelScope) -> None:
        while anyio.current_time() < self._due:
            await anyio.sleep(min(self._due - anyio.current_time(), _LAST_WORD))
        scope.cancel()
