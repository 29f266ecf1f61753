"""A second emulator to compare with: tmux, in whose pane the same bytes are shown."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

_PATIENCE_S = 30
# The answer to the question at the end comes when everything before it was taken in. What is unfinished is broken off.
_SHOW = r"""stty raw -echo
cat {file}
printf '\030\033[5n'
head -c 4 >{file}.answer
tmux wait-for -S shown
exec sleep 1000"""

# Tmux tells apart letters and what they draw by attributes, which it gives with the others.
_ATTRIBUTES = re.compile(r"\x1b\[[0-9;:]*m|\x1b\]8;.*?\x1b\\\\")
_LINES = re.compile(r"\x0e(.*?)(?:\x0f|\Z)|\x0f", re.DOTALL)
_DRAWING = str.maketrans("jklmnqtuvwx", "┘┐┌└┼─├┤┴┬│")


def missing() -> str:
    """What this machine lacks for the emulator; empty if nothing."""
    return "" if shutil.which("tmux") else "tmux not found: run `scripts/setup dev` as root"


class SecondTerminal:
    """One tmux server, as a context manager; nothing of the user's own tmux is read or touched."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "output"
        self._tmux = ["tmux", "-u", "-f", "/dev/null", "-S", str(directory / "socket")]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TMUX")}
        self._environment = kept | {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}

    def rows(self, output: bytes, cols: int, rows: int) -> tuple[str, ...]:
        """The screen that some output makes, without the blanks at the ends of rows."""
        self._file.write_bytes(output)
        shown = self._run(
            *("resize-window", "-x", str(cols), "-y", str(rows), ";"),
            *("respawn-pane", "-k", _SHOW.format(file=shlex.quote(str(self._file))), ";"),
            *("wait-for", "shown", ";", "capture-pane", "-p", "-e"),
        )
        shown = _LINES.sub(lambda drawn: (drawn.group(1) or "").translate(_DRAWING), _ATTRIBUTES.sub("", shown))
        return tuple(row.rstrip(" ") for row in shown.removesuffix("\n").split("\n"))

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments],
            env=self._environment,
            check=True,
            capture_output=True,
            timeout=_PATIENCE_S,
        )
        return done.stdout.decode()

    def __enter__(self) -> Self:
        self._run("new-session", "-d", "-x", "80", "-y", "24", "exec sleep 1000", ";", "set", "-g", "status", "off")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("kill-server")
