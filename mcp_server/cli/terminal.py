"""The user's terminal: in raw mode during a session, and always restored afterwards."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from .console import CliError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

_PIECE = 16 * 1024
_DEFAULT = (80, 24)
_MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """A terminal, given by its file descriptors."""

    keyboard: int
    screen: int

    @classmethod
    def own(cls) -> Terminal:
        """Return the terminal of this process.

        Raises:
            CliError: Standard input or output is not a terminal.
        """
        keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
        if not (os.isatty(keyboard) and os.isatty(screen)):
            raise CliError("casemate shell needs a terminal: run single commands with casemate sandbox exec")
        return cls(keyboard=keyboard, screen=screen)

    def size(self) -> tuple[int, int]:
        """Return columns and rows."""
        try:
            found = os.get_terminal_size(self.screen)
        except OSError:
            return _DEFAULT
        cols, rows = found.columns or _DEFAULT[0], found.lines or _DEFAULT[1]
        return min(cols, _MOST), min(rows, _MOST)

    @contextmanager
    def raw(self) -> Generator[None]:
        """Keep the terminal in raw mode until the block ends."""
        before = termios.tcgetattr(self.keyboard)
        try:
            tty.setraw(self.keyboard, termios.TCSADRAIN)
            yield
        finally:
            # Drop unread input: it was typed for the session, not for the local shell.
            termios.tcsetattr(self.keyboard, termios.TCSAFLUSH, before)

    async def keys(self) -> AsyncGenerator[bytes]:
        """Yield typed bytes until the terminal closes."""
        while True:
            await anyio.wait_readable(self.keyboard)
            try:
                typed = os.read(self.keyboard, _PIECE)
            except OSError:
                return
            if not typed:
                return
            yield typed

    async def sizes(self) -> AsyncGenerator[tuple[int, int]]:
        """Yield columns and rows each time they change."""
        with anyio.open_signal_receiver(signal.SIGWINCH) as changes:
            async for _ in changes:
                yield self.size()

    async def write(self, data: bytes) -> None:
        """Write output to the terminal."""

        def write() -> None:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self.screen, rest) :]

        await anyio.to_thread.run_sync(write)
