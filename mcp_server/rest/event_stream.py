"""A command's output as server-sent events: `stdout` and `stderr` line by line, and `exit` at the end.

What was left out of the output, or why it was ended, is told on `stderr`, which people see whatever their client is;
`stdout` is the command's alone. Lines suit people; programs need exact bytes. In the binary form each event carries the
bytes in base64, and a header of the answer says so.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from vmm.agent.spool import MIB, MOST, TOTAL
from vmm.errors import CasemateError
from vmm.guest.values import Chunk

from ..exit_reason import why_killed
from .lines import event
from .text_events import TextEvents

if TYPE_CHECKING:
    from anyio.abc import ObjectReceiveStream, ObjectSendStream

    from vmm.calls.network import SandboxNetwork
    from vmm.fleet import Fleet
    from vmm.guest.values import ProcessInfo

    from .streaming import Answer

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "connection": "keep-alive",
    "x-accel-buffering": "no",
}
_BINARY_HEADERS = {**_HEADERS, "x-casemate-encoding": "base64"}
_KEEP_ALIVE_S = 15
_PIECE = 32 * 1024
"""Bytes converted to events at once; with very short lines, that is thousands of events in a few milliseconds."""
_WAITING = 64
"""Chunks that may queue up for a slow client; beyond that the guest keeps the output on its disk."""
NOT_KEPT = (
    f"the sandbox keeps at most {MOST // MIB} MiB of each, {TOTAL // MIB} MiB of all commands, and leaves some of its"
    " disk free"
)
"""Why bytes of an output are missing."""
_UNKNOWN = -1


class EventStream:
    """Streams the output of one command.

    Args:
        fleet: Runs the sandbox.
        owner: The sandbox's owner.
        sandbox_id: The sandbox's id.
        pid: The command's pid.
        answer: Sends the events.
        binary: Whether to send bytes instead of lines.
        prompts: Whether the client answers prompts: see `TextEvents`.
        hold: Whether the command, which was started so, waits for a client that reads slowly.
        network: Its sandbox's network since before the command, whose refusals are told with `exit`.
    """

    def __init__(
        self,
        fleet: Fleet,
        owner: str,
        sandbox_id: str,
        pid: int,
        answer: Answer,
        *,
        binary: bool = False,
        prompts: bool = False,
        hold: bool = False,
        network: SandboxNetwork | None = None,
    ) -> None:
        self._fleet = fleet
        self._process = (owner, sandbox_id, pid)
        self._answer = answer
        self._binary = binary
        self._network = network
        self._hold = hold
        self._text = TextEvents(prompts=prompts)
        self._seen = {"stdout": 0, "stderr": 0}

    async def send(self, *, follow: bool = True, timeout_s: float = 0, tell_pid: bool = False) -> int:
        """Send the command's output from its beginning.

        Args:
            follow: Whether to go on until the command ends. Otherwise send the kept output, and `exit` if it has ended.
            timeout_s: The command's time limit, for the message about a command that exceeded it.
            tell_pid: Whether to begin with the event `start`, which has the pid to send input to.

        Returns:
            Its exit code, or -1 if it is still running or the sandbox was lost meanwhile.
        """
        await self._answer.begin(200, _BINARY_HEADERS if self._binary else _HEADERS)
        if tell_pid:
            await self._answer.write(event("start", json.dumps({"pid": self._process[2]})).encode())
        code, error = _UNKNOWN, ""
        try:
            await self._output(self._live if follow else self._kept)
            info = await self._status(wait_ms=5_000 if follow else 0)
            if info.running and not follow:
                return code
            code = _UNKNOWN if info.exit_code is None else info.exit_code
            error = why_killed(info, timeout_s=timeout_s)
            if error and not self._binary:  # many clients look only at the exit code
                await self._answer.write(event("stderr", f"[{error}]\n").encode())
        except CasemateError as failure:
            error = str(failure)
            await self._answer.write(event("error", " ".join(error.splitlines())).encode())
        refused = self._network.refusals() if self._network is not None else ""
        told = {"error": error, "network": refused}
        status = {"exitCode": code, **{name: text for name, text in told.items() if text}}
        await self._answer.write(event("exit", json.dumps(status)).encode())
        return code

    async def _output(self, source: Callable[[ObjectSendStream[Chunk]], Awaitable[None]]) -> None:
        failures: list[CasemateError] = []
        sender, receiver = anyio.create_memory_object_stream[Chunk](_WAITING)

        async def pump() -> None:
            async with sender:
                try:
                    await source(sender)
                except CasemateError as failure:
                    failures.append(failure)

        async with anyio.create_task_group() as tasks, receiver:
            tasks.start_soon(pump)
            while (text := await self._next(receiver)) is not None:
                await self._answer.write(text.encode())
            await self._answer.write(self._text.end().encode())
        if failures:
            raise failures[0]

    async def _live(self, sender: ObjectSendStream[Chunk]) -> None:
        async with self._fleet.guest.attach(*self._process, hold=self._hold) as chunks:
            async for chunk in chunks:
                for start in range(0, len(chunk.data), _PIECE):
                    data = chunk.data[start : start + _PIECE]
                    await sender.send(Chunk(stream=chunk.stream, offset=chunk.offset + start, data=data))

    async def _kept(self, sender: ObjectSendStream[Chunk]) -> None:
        until = await self._status()
        stdout = stderr = 0
        while stdout < until.stdout_total or stderr < until.stderr_total:
            output = await self._fleet.guest.read_output(
                *self._process, stdout_offset=stdout, stderr_offset=stderr, max_bytes=_PIECE
            )
            if output.stdout.data:
                await sender.send(Chunk(stream="stdout", offset=output.stdout.offset, data=output.stdout.data))
            if output.stderr.data:
                await sender.send(Chunk(stream="stderr", offset=output.stderr.offset, data=output.stderr.data))
            stdout, stderr = output.stdout.next_offset, output.stderr.next_offset

    async def _next(self, receiver: ObjectReceiveStream[Chunk]) -> str | None:
        """Return the next events: lines, parts of lines that are due, or keep-alive comments; None at the end."""
        now = anyio.current_time()
        due = self._text.due
        try:
            with anyio.move_on_at(min(due, now + _KEEP_ALIVE_S)):
                chunk = await receiver.receive()
                now = anyio.current_time()
                # What is due is sent even if new output is there each time.
                return self._events_of(chunk, now) + self._text.flush(now)
        except anyio.EndOfStream:
            return None
        return ": still running\n\n" if math.isinf(due) else self._text.flush(anyio.current_time())

    def _events_of(self, chunk: Chunk, now: float) -> str:
        name = chunk.stream
        skipped = chunk.offset - self._seen[name]
        self._seen[name] = chunk.offset + len(chunk.data)
        loss = f"{skipped} bytes of {name} left out: {NOT_KEPT}" if skipped > 0 else ""
        if self._binary:
            return (event("error", loss) if loss else "") + event(name, b64encode(chunk.data).decode())
        told = self._text.end(name) + event("stderr", f"[{loss}]\n") if loss else ""
        return told + self._text.feed(name, chunk.data, now)

    async def _status(self, *, wait_ms: int = 0) -> ProcessInfo:
        """Look up the command's status, after waiting for its end."""
        output = await self._fleet.guest.read_output(
            *self._process,
            stdout_offset=self._seen["stdout"],
            stderr_offset=self._seen["stderr"],
            max_bytes=1,
            wait_ms=wait_ms,
        )
        return output.info
