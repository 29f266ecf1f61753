"""Commands that are fed input while their output is followed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from .errors import Missing
from .output_stream import BINARY, Ended, Sink, follow
from .remote import route

if TYPE_CHECKING:
    from .remote import Remote
    from .values import Object

_PIECE = 256 * 1024


async def follow_fed(
    remote: Remote, ref: str, body: Object, sink: Sink, feed: Callable[[int], Awaitable[None]]
) -> Ended | None:
    """Run a command and feed it; return None if the stream of its output ends before it does.

    Args:
        remote: The server.
        ref: The sandbox.
        body: The request of `exec-stream`.
        sink: Takes the output. What it raises ends the command.
        feed: Sends the input to the command with this pid.

    Raises:
        CliError: The server refused the command or its input.
    """
    ended: Ended | None = None
    failures: list[Exception] = []
    path = route("sandboxes", ref, "exec-stream")
    async with (
        remote.events(path, body | BINARY | {"openStdin": True}) as output,
        anyio.create_task_group() as tasks,
    ):

        async def fed(pid: int) -> None:
            try:
                await feed(pid)
            except Exception as error:
                failures.append(error)
                tasks.cancel_scope.cancel()

        def started(pid: int) -> None:
            tasks.start_soon(fed, pid)

        try:
            ended = await follow(output, sink, started)
        except Exception as error:
            failures.append(error)  # raised below, because the task group would wrap it
        tasks.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return ended


async def send_bytes(remote: Remote, ref: str, pid: int, data: bytes) -> None:
    """Send a command all of its input. A command that ends earlier does not mind.

    Raises:
        CliError: The server did not accept it.
    """

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(data), _PIECE):
            yield data[start : start + _PIECE]

    query: dict[str, str | int] = {"pid": pid, "eof": "true"}
    headers = {"Content-Type": "application/octet-stream"}
    path = route("sandboxes", ref, "commands", "stdin")
    try:
        call = remote.stream("POST", path, query=query, content=pieces(), headers=headers, read_s=None)
        async with call as response:
            await response.aread()
    except Missing:  # the command has ended, and its record is gone
        return
