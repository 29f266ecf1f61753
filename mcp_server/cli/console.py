"""Where the commands write: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import signal
import sys
import unicodedata
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from anyio.abc import TaskStatus

T = TypeVar("T")

out = Console(soft_wrap=True, highlight=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)

_OWN = 0o700
_SIGNALLED = 128
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOP = {"use_uvloop": True}


class CliError(Exception):
    """A command cannot do its work; the message is one line for the person at the keyboard, with the way out."""


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Write rows in columns, never cut: what is piped into a program must be whole."""
    lines = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        text = "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        out.print(text.rstrip(), markup=False)


def show_json(value: object, *, lines: bool = False) -> None:
    """Write a value for programs.

    Args:
        value: Anything that JSON has.
        lines: On one line, as one of a stream of values.
    """
    # In ASCII: no text of somebody else's reaches the terminal as a control sequence.
    sys.stdout.write(json.dumps(value, indent=None if lines else 2) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Write a line about what was done, beside the results."""
    err.print(plain(text), markup=False)


def print_errors(*lines: str) -> None:
    """Write refusals, one a line."""
    for line in lines:
        err.print(f"casemate: {plain(line)}", markup=False, style="red")


def plain(text: str) -> str:
    """A text of somebody else's on one line, without what would steer a terminal."""
    if text.isprintable():
        return text
    return "".join(_shown(letter) for letter in text)


async def write_raw(name: str, data: bytes) -> None:
    """Write bytes as they are, to `stdout` or `stderr`.

    Raises:
        typer.Exit: Nobody reads them any more, as a shell would say it.
    """
    stream = sys.stderr.buffer if name == "stderr" else sys.stdout.buffer

    def write() -> None:
        stream.write(data)
        stream.flush()

    try:
        await anyio.to_thread.run_sync(write)
    except BrokenPipeError:
        # Python would try once more at its end, and print_errors.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise typer.Exit(_SIGNALLED + signal.SIGPIPE) from None


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's asynchronous part; a signal ends it in order, with the status that shells give that."""
    try:
        return anyio.run(_until_signal, work, backend_options=_LOOP)
    except KeyboardInterrupt:  # a second one, while the first is being handled
        raise typer.Exit(_SIGNALLED + signal.SIGINT) from None


def run_server(work: Callable[[], Awaitable[None]]) -> None:
    """Run something that heeds signals by itself."""
    anyio.run(work, backend_options=_LOOP)


async def _until_signal(work: Callable[[], Awaitable[T]]) -> T:
    # One that is ignored, as nohup has it, stays so.
    handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    caught: list[int] = []
    results: list[T] = []
    failures: list[Exception] = []

    async def handle(*, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*handled) as signals:
            task_status.started()
            async for number in signals:
                caught.append(number)
                tasks.cancel_scope.cancel()
                break

    async with anyio.create_task_group() as tasks:
        await tasks.start(handle)
        try:
            results.append(await work())
        except Exception as error:
            failures.append(error)  # raised below, outside of the group that would wrap it
        tasks.cancel_scope.cancel()
    if caught:
        raise typer.Exit(_SIGNALLED + caught[0])
    if failures:
        raise failures[0]
    return results[0]


def prepare_directory(data: Path) -> None:
    """Make the data directory, for its user alone.

    Raises:
        CliError: It cannot be written.
    """
    try:
        data.mkdir(parents=True, exist_ok=True, mode=_OWN)
    except OSError as error:
        raise CliError(f"CASEMATE_DATA={data} cannot be made ({error.strerror}): {_WAY_OUT}") from None
    if not os.access(data, os.W_OK | os.X_OK):
        raise CliError(f"CASEMATE_DATA={data} cannot be written: {_WAY_OUT}")


def _shown(letter: str) -> str:
    # What is not printable steers the terminal, or the eye: control characters, direction marks, line separators.
    if letter.isprintable() or unicodedata.category(letter) == "Zs":
        return letter
    return letter.encode("unicode_escape").decode("ascii")


_WAY_OUT = "set it to a directory of yours"
