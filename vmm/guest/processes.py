"""The link's calls about commands and background processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from vmm.agent import frames
from vmm.errors import LinkError

from . import checks
from .caller import Caller, Stream
from .decoding import outcome, plain, slices
from .values import KIB, Chunk, Command, Fed, Outcome, ProcessInfo, ProcessOutput

_BEAT_S = 5.0
"""Interval of the agent's signs of life while a followed process prints nothing."""


class ProcessCalls(Caller):
    """Run, start, follow, feed and end programs in the guest."""

    async def exec(
        self,
        command: Command,
        *,
        wait_ms: int,
        detach: bool = False,
        keep_head: int = 256 * KIB,
        keep_tail: int = 256 * KIB,
    ) -> Outcome:
        """Run a command and wait for its end, at most `wait_ms`; then it continues in the background under its pid.

        Cancelling the wait, or losing the connection during it, kills the command's whole tree unless `detach` is
        given. A command that exceeded its time limit has `timed_out`, exit code 137 and the output up to then.

        Args:
            command: What to run.
            wait_ms: How long to wait.
            detach: Whether the command survives an interrupted wait.
            keep_head: Bytes to return from the beginning of each stream.
            keep_tail: Bytes to return from the end of each stream if not all of it fits.

        Raises:
            InvalidInput: Empty or oversized command, unknown user or program, no such directory.
            LinkError: The guest could not be reached, or the connection broke and the command may have run.
        """
        reply = await self._call(
            "exec",
            body=command.stdin or None,
            own_s=checks.count(wait_ms, "wait_ms") / 1000,
            most_data=2 * (keep_head + keep_tail),
            wait_ms=wait_ms,
            detach=detach,
            keep_head=checks.count(keep_head, "keep_head"),
            keep_tail=checks.count(keep_tail, "keep_tail"),
            more=checks.command(command),
        )
        return outcome(reply)

    async def start(
        self, command: Command, *, open_stdin: bool = False, background: bool = False, hold: bool = False
    ) -> ProcessInfo:
        """Start a command, and leave it running.

        Args:
            command: What to run.
            open_stdin: Whether its input stays open for `send_stdin`, instead of ending after `command.stdin`.
            background: Whether nobody waits for it; its `ProcessInfo` says so.
            hold: Whether it may be held back by an `attach` with `hold`, which must follow within a minute.

        Raises:
            InvalidInput: As `exec`.
        """
        reply = await self._call(
            "start",
            body=command.stdin or None,
            open_stdin=open_stdin,
            background=background,
            hold=hold,
            more=checks.command(command),
        )
        return plain(ProcessInfo, reply.value)

    async def processes(self) -> tuple[ProcessInfo, ...]:
        """List all processes started through the link, oldest first.

        Of the finished ones these are the last hundred in the background, and the last hundred others.
        """
        reply = await self._call("processes")
        return tuple(plain(ProcessInfo, value) for value in reply.value["processes"])

    async def forget(self) -> None:
        """Forget finished processes and their output."""
        await self._call("forget")

    async def wait(self, pid: int, *, wait_ms: int, keep_head: int = 256 * KIB, keep_tail: int = 256 * KIB) -> Outcome:
        """Wait for a process to end, at most `wait_ms`.

        Raises:
            ProcessMissing: No process with this pid was started through the link.
        """
        reply = await self._call(
            "wait",
            own_s=checks.count(wait_ms, "wait_ms") / 1000,
            most_data=2 * (keep_head + keep_tail),
            pid=pid,
            wait_ms=wait_ms,
            keep_head=checks.count(keep_head, "keep_head"),
            keep_tail=checks.count(keep_tail, "keep_tail"),
        )
        return outcome(reply)

    async def read_output(
        self,
        pid: int,
        *,
        stdout_offset: int = 0,
        stderr_offset: int = 0,
        max_bytes: int = 256 * KIB,
        wait_ms: int = 0,
    ) -> ProcessOutput:
        """Read both streams from given offsets on, at most `max_bytes` of each.

        Args:
            pid: The process.
            stdout_offset: Where to begin in stdout.
            stderr_offset: Where to begin in stderr.
            max_bytes: At most 4 MiB.
            wait_ms: How long to wait for something new or the end; 0 answers at once.

        Raises:
            ProcessMissing: No process with this pid was started through the link.
        """
        reply = await self._call(
            "read_output",
            own_s=checks.count(wait_ms, "wait_ms") / 1000,
            most_data=2 * max_bytes,
            pid=pid,
            stdout_offset=checks.count(stdout_offset, "stdout_offset"),
            stderr_offset=checks.count(stderr_offset, "stderr_offset"),
            max_bytes=checks.count(max_bytes, "max_bytes", minimum=1),
            wait_ms=wait_ms,
        )
        stdout, stderr = slices(reply, "stdout", "stderr")
        return ProcessOutput(info=plain(ProcessInfo, reply.value["info"]), stdout=stdout, stderr=stderr)

    @asynccontextmanager
    async def attach(
        self, pid: int, *, stdout_offset: int = 0, stderr_offset: int = 0, hold: bool = False
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        """Follow a process's output live from given offsets on; the iterator ends with the process.

        Leaving the block early does not affect the process. With `hold`, the process waits where something would be
        dropped that has not been sent yet.

        Raises:
            ProcessMissing: No process with this pid was started through the link.
        """
        stream = self._stream(
            "attach",
            own_s=_BEAT_S,
            pid=pid,
            stdout_offset=checks.count(stdout_offset, "stdout_offset"),
            stderr_offset=checks.count(stderr_offset, "stderr_offset"),
            hold=hold,
        )
        async with stream as answer:
            yield _Chunks(answer)

    async def send_stdin(self, pid: int, data: bytes, *, eof: bool = False) -> None:
        """Send input to a process that was started with open input, and end its input if `eof`.

        Raises:
            ProcessMissing: No process with this pid was started through the link.
            GuestError: Its input is closed, or megabytes are waiting that it does not read.
        """
        await self._call("send_stdin", body=checks.typed(data), pid=pid, eof=eof)

    async def feed(self, pid: int, data: bytes, *, eof: bool = False, wait_ms: int = 0) -> Fed:
        """Send input to a process as `send_stdin` does, but wait if it does not read, and return the result.

        Args:
            pid: The process.
            data: At most 1 MiB; all or nothing of it is accepted.
            eof: Whether its input ends after that.
            wait_ms: How long to wait for a process that does not read.

        Raises:
            ProcessMissing: No process with this pid was started through the link.
        """
        reply = await self._call(
            "feed",
            body=checks.typed(data),
            own_s=checks.count(wait_ms, "wait_ms") / 1000,
            pid=pid,
            eof=eof,
            wait_ms=wait_ms,
        )
        match reply.value.get("state"):
            case "taken" | "full" | "closed" as state:
                return state
            case _:
                raise LinkError("The guest's answer does not say whether the process got its input")

    async def signal(self, pid: int, signal: int = 15) -> None:
        """Send a signal to a process's whole tree.

        Raises:
            ProcessMissing: No process with this pid was started through the link.
            InvalidInput: There is no such signal.
        """
        await self._call("signal", pid=pid, signal=checks.signal_number(signal))


class _Chunks:
    """A process's live output, without the agent's signs of life in between."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        while (frame := await self._stream.receive()) is not None:
            kind, payload = frame
            if kind in {frames.STDOUT, frames.STDERR}:
                (offset,) = frames.OFFSET.unpack_from(payload)
                stream = "stdout" if kind == frames.STDOUT else "stderr"
                return Chunk(stream=stream, offset=offset, data=payload[frames.OFFSET.size :])
        raise StopAsyncIteration
