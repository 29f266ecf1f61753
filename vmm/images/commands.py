"""Runs the tools that build images: asynchronously, with a deadline, and without leaving processes behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.text import TextReceiveStream

from vmm.errors import Unavailable

SYSTEM_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"
"""Directories of file system tools, which are missing in a plain user's PATH."""

_KEPT_LINES = 12
_MERCY_S = 5
_KEPT_OUTPUT = 16 * 1024 * 1024


async def run(
    command: Sequence[str | Path],
    *,
    deadline_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    pass_fds: Sequence[int] = (),
) -> str:
    """Run a program to its end and return its standard output.

    When the deadline passes or the task is cancelled, its whole process group is ended before this returns.

    Args:
        command: Program and arguments.
        deadline_s: Seconds that it may take.
        cwd: The working directory.
        env: Variables to add to the environment.
        on_line: Called with each line of stdout and stderr.
        pass_fds: Descriptors that it inherits, such as the build lock.

    Raises:
        Unavailable: It failed, is missing, or took too long; the message ends with its last lines.
    """
    name = Path(command[0]).name
    process: Process | None = None
    try:
        # If asyncio is cancelled while it starts a process, a pipe stays open.
        with anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=_environment(env or {}),
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
    except OSError as error:
        raise Unavailable(f"{name} could not be started: {error.strerror}", hint="Run casemate doctor") from error
    assert process is not None
    output: list[str] = []
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    finished = False
    try:
        with anyio.move_on_after(deadline_s):
            async with anyio.create_task_group() as tasks:
                assert process.stdout is not None
                assert process.stderr is not None
                tasks.start_soon(_read, process.stdout, output, last, on_line)
                tasks.start_soon(_read, process.stderr, None, last, on_line)
                await process.wait()
            finished = True
    finally:
        with anyio.CancelScope(shield=True):
            if not finished:
                await _end(process)
            await process.aclose()
    tail = "\n".join(last)
    if not finished:
        raise Unavailable(f"{name} did not finish within {deadline_s:.0f} s\n{tail}", hint="Try again")
    if process.returncode != 0:
        raise Unavailable(f"{name} failed with status {process.returncode}\n{tail}")
    return "".join(output)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    # The host's proxy and certificate settings stay; settings that change a tool's language or Python do not.
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LC_", "DEB_", "DPKG_"))}
    path = f"{own.get('PATH', os.defpath)}:{SYSTEM_PATHS}"
    return {**own, "PATH": path, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **extra}


async def _read(
    stream: ByteReceiveStream, output: list[str] | None, last: deque[str], on_line: Callable[[str], None] | None
) -> None:
    rest = ""
    kept = 0
    async for text in TextReceiveStream(stream, errors="replace"):
        if output is not None and kept < _KEPT_OUTPUT:
            output.append(text)
            kept += len(text)
        *lines, rest = (rest + text).replace("\r", "\n").split("\n")
        for line in lines:
            _note(line, last, on_line)
    _note(rest, last, on_line)


def _note(line: str, last: deque[str], on_line: Callable[[str], None] | None) -> None:
    if line.strip():
        last.append(line[:400])
        if on_line is not None:
            on_line(line)


async def _end(process: Process) -> None:
    """End the rest of a process group, first with SIGTERM, so that mmdebstrap can remove its own directory."""
    for number, patience in ((signal.SIGTERM, _MERCY_S), (signal.SIGKILL, math.inf)):
        if process.returncode is None:
            _signal(process.pid, number)
            with anyio.move_on_after(patience):
                await process.wait()
    _signal(process.pid, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
    except PermissionError:
        # The remaining processes belong to other users of a namespace, whose first process ends them.
        return
