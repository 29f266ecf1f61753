"""A command's output as server-sent events: `stdout` and `stderr` line by line, and `exit` at the end."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import anyio

from vmm.errors import CasemateError

from .lines import Lines, event

if TYPE_CHECKING:
    from anyio.abc import ObjectReceiveStream, ObjectSendStream

    from vmm.fleet import Fleet
    from vmm.guest.values import Chunk

    from .streaming import Answer

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "connection": "keep-alive",
    "x-accel-buffering": "no",
}
_PAUSE_S = 0.5
"""A line that stops in its middle for so long, such as a question, is sent as it stands."""
_SIGN_OF_LIFE_S = 15
_UNKNOWN = -1


class EventStream:
    """Follows one command.

    Args:
        fleet: Where it runs.
        owner: Whose sandbox it is.
        sandbox_id: The sandbox's id.
        answer: Where the events go.
    """

    def __init__(self, fleet: Fleet, owner: str, sandbox_id: str, answer: Answer) -> None:
        self._fleet = fleet
        self._owner = owner
        self._sandbox = sandbox_id
        self._answer = answer
        self._lines = {"stdout": Lines(), "stderr": Lines()}
        self._seen = {"stdout": 0, "stderr": 0}

    async def follow(self, pid: int, *, timeout_s: float = 0) -> int:
        """Send everything that the command writes, from its beginning, until it ends.

        Args:
            pid: The command.
            timeout_s: The limit that it has, for the words about one that passed it.

        Returns:
            Its exit code, or -1 if the sandbox was lost meanwhile.
        """
        await self._answer.begin(200, _HEADERS)
        code, error = _UNKNOWN, ""
        try:
            await self._output(pid)
            code, error = await self._outcome(pid, timeout_s)
        except CasemateError as failure:
            error = str(failure)
            await self._answer.write(event("error", " ".join(error.splitlines())).encode())
        status = {"exitCode": code, **({"error": error} if error else {})}
        await self._answer.write(event("exit", json.dumps(status, ensure_ascii=False)).encode())
        return code

    async def _output(self, pid: int) -> None:
        failures: list[CasemateError] = []
        sender, receiver = anyio.create_memory_object_stream["Chunk"](0)
        async with anyio.create_task_group() as tasks, receiver:
            tasks.start_soon(self._pump, pid, sender, failures)
            async for text in self._texts(receiver):
                await self._answer.write(text.encode("utf-8", "replace"))
        if failures:
            raise failures[0]

    async def _pump(self, pid: int, sender: ObjectSendStream[Chunk], failures: list[CasemateError]) -> None:
        async with sender:
            try:
                async with self._fleet.attach(self._owner, self._sandbox, pid) as chunks:
                    async for chunk in chunks:
                        await sender.send(chunk)
            except CasemateError as failure:
                failures.append(failure)

    async def _texts(self, receiver: ObjectReceiveStream[Chunk]) -> AsyncGenerator[str]:
        """The events' text as it comes: lines, halves of lines after a pause, signs of life."""
        while True:
            chunk: Chunk | None = None
            paused = any(lines.pending for lines in self._lines.values())
            try:
                with anyio.move_on_after(_PAUSE_S if paused else _SIGN_OF_LIFE_S):
                    chunk = await receiver.receive()
            except anyio.EndOfStream:
                break
            if chunk is not None:
                yield self._events_of(chunk)
            elif paused:
                yield "".join(event(name, line) for name, lines in self._lines.items() for line in lines.flush())
            else:
                yield ": still running\n\n"
        yield "".join(event(name, line) for name, lines in self._lines.items() for line in lines.end())

    def _events_of(self, chunk: Chunk) -> str:
        name = chunk.stream
        lines: list[str] = []
        skipped = chunk.offset - self._seen[name]
        if skipped > 0:
            lines = [*self._lines[name].flush(), f"[{skipped} bytes left out: they were not read in time]"]
        self._seen[name] = chunk.offset + len(chunk.data)
        return "".join(event(name, line) for line in (*lines, *self._lines[name].feed(chunk.data)))

    async def _outcome(self, pid: int, timeout_s: float) -> tuple[int, str]:
        output = await self._fleet.read_output(
            self._owner,
            self._sandbox,
            pid,
            stdout_offset=self._seen["stdout"],
            stderr_offset=self._seen["stderr"],
            max_bytes=1,
            wait_ms=5_000,
        )
        info = output.info
        code = _UNKNOWN if info.exit_code is None else info.exit_code
        error = f"killed: it took longer than {timeout_s:g} s" if info.timed_out else ""
        return code, error
