"""Records what a real program writes to a terminal of its own, answering and pressing keys as a person's would."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mcp_server.terminals.emulator import Emulator

_PATIENCE_S = 30


def record(
    command: Sequence[str],
    *,
    size: tuple[int, int] = (80, 24),
    keys: Sequence[tuple[str, bytes]] = (),
    at: Path,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """The output of a program until it ends; or until the last text of `keys` is shown, when its keys are empty.

    Args:
        command: The program and its arguments.
        size: Columns and rows of its terminal.
        keys: What is pressed once a text stands on the screen, in turn.
        at: The directory that it runs in.
        env: More variables for it.

    Raises:
        AssertionError: A text did not come.
    """
    cols, rows = size
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
    environment = {"PATH": os.environ["PATH"], "HOME": str(at), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=at,
        env=environment | dict(env or {}),
        start_new_session=True,
    )
    os.close(theirs)
    try:
        return _watch(ours, Emulator(cols, rows), list(keys))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


def _watch(terminal: int, emulator: Emulator, keys: list[tuple[str, bytes]]) -> bytes:
    output = b""
    deadline = time.monotonic() + _PATIENCE_S
    while select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux's way of saying that nobody has the terminal open any more.
            assert not keys, f"ended before {keys[0][0]!r} was shown: {emulator.text()}"
            return output
        output += data
        os.write(terminal, emulator.feed(data))
        while keys and emulator.shows(keys[0][0]):
            pressed = keys.pop(0)[1]
            if not pressed:
                return output
            os.write(terminal, pressed)
    raise AssertionError(f"{keys[0][0] if keys else 'an end'!r} did not come: {emulator.text()}")
