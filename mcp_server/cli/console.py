"""Terminal output and signal handling of the commands: results go to standard output, the rest to standard error."""

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

_OWNER_ONLY = 0o700
_SIGNALLED = 128
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOP = {"use_uvloop": True}


class CliError(Exception):
    """A command failed; the message is one line for the user and says how to fix it."""


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns, never truncated, so that piped output is complete."""
    lines = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        text = "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        out.print(text.rstrip(), markup=False)


def show_json(value: object, *, lines: bool = False) -> None:
    """Print a value as JSON.

    Args:
        value: Any JSON value.
        lines: Print it on one line, as one of a stream of values.
    """
    # ASCII only, so that untrusted text cannot send control sequences to the terminal.
    sys.stdout.write(json.dumps(value, indent=None if lines else 2) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a message to standard error, apart from the results."""
    err.print(plain(text), markup=False)


def print_errors(*lines: str) -> None:
    """Print error messages, one per line."""
    for line in lines:
        err.print(f"casemate: {plain(line)}", markup=False, style="red")


def plain(text: str) -> str:
    """Escape untrusted text: keep it on one line and free of terminal control characters."""
    if text.isprintable():
        return text
    return "".join(_shown(letter) for letter in text)


async def write_raw(name: str, data: bytes) -> None:
    """Write bytes unchanged to `stdout` or `stderr`.

    Raises:
        typer.Exit: The reader closed the pipe; the status is the one that shells use for SIGPIPE.
    """
    stream = sys.stderr.buffer if name == "stderr" else sys.stdout.buffer

    def write() -> None:
        stream.write(data)
        stream.flush()

    try:
        await anyio.to_thread.run_sync(write)
    except BrokenPipeError:
        # Otherwise Python flushes the stream again at exit and reports an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise typer.Exit(_SIGNALLED + signal.SIGPIPE) from None


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's asynchronous part; a signal cancels it and exits with the status that shells use for it."""
    try:
        return anyio.run(_until_signal, work, backend_options=_LOOP)
    except KeyboardInterrupt:  # a second Ctrl-C while the first is being handled
        raise typer.Exit(_SIGNALLED + signal.SIGINT) from None


def run_server(work: Callable[[], Awaitable[None]]) -> None:
    """Run a server that handles signals itself."""
    anyio.run(work, backend_options=_LOOP)


async def _until_signal(work: Callable[[], Awaitable[T]]) -> T:
    # Keep ignoring signals that are already ignored, for example under nohup.
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
            failures.append(error)  # raised below, because the task group would wrap it
        tasks.cancel_scope.cancel()
    if caught:
        raise typer.Exit(_SIGNALLED + caught[0])
    if failures:
        raise failures[0]
    return results[0]


def prepare_directory(data: Path) -> None:
    """Create the data directory with access for its owner only.

    Raises:
        CliError: The directory cannot be created or is not writable.
    """
    try:
        data.mkdir(parents=True, exist_ok=True, mode=_OWNER_ONLY)
    except OSError as error:
        raise CliError(f"CASEMATE_DATA: cannot create {data} ({error.strerror}): {_WAY_OUT}") from None
    if not os.access(data, os.W_OK | os.X_OK):
        raise CliError(f"CASEMATE_DATA: {data} is not writable: {_WAY_OUT}")


def _shown(letter: str) -> str:
    # Control characters, direction marks and line separators can spoof or reprogram the terminal.
    if letter.isprintable() or unicodedata.category(letter) == "Zs":
        return letter
    return letter.encode("unicode_escape").decode("ascii")


_WAY_OUT = "set it to a directory that you can write to"
