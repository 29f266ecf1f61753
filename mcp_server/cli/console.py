"""Where the commands write: results to standard output, everything else to standard error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import anyio
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

_OWN = 0o700


class Trouble(Exception):
    """A command cannot do its work; the message is one line for the person at the keyboard, with the way out."""


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Write rows in columns, never cut: what is piped into a program must be whole."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        out.print(line.rstrip(), markup=False)


def complain(*lines: str) -> None:
    """Write refusals, one a line."""
    for line in lines:
        err.print(f"casemate: {line}", markup=False, style="red")


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's asynchronous part."""
    return anyio.run(work, backend_options={"use_uvloop": True})


def prepare_directory(data: Path) -> None:
    """Make the data directory, for its user alone.

    Raises:
        Trouble: It cannot be written.
    """
    try:
        data.mkdir(parents=True, exist_ok=True, mode=_OWN)
    except OSError as error:
        raise Trouble(f"CASEMATE_DATA={data} cannot be made ({error.strerror}): {_WAY_OUT}") from None
    if not os.access(data, os.W_OK | os.X_OK):
        raise Trouble(f"CASEMATE_DATA={data} cannot be written: {_WAY_OUT}")


_WAY_OUT = "set it to a directory of yours"
