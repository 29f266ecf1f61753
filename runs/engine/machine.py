"""The port to a machine in which a run's programs are started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Sink = Callable[[str, bytes], Awaitable[None]]
"""Takes a program's output as it is written: the name of the stream, `stdout` or `stderr`, and bytes from it."""

STEP_TIMEOUT_S = 3600
"""The time limit of a step that names none, as in VoidBox's policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended; `reason` says why it was ended from outside, and is empty if it was not."""

    exit_code: int
    reason: str = ""


class MachineError(Exception):
    """The machine could not run a program, or was lost meanwhile; the message says why."""


class Machine(Protocol):
    """A machine that runs."""

    async def run(self, argv: Sequence[str], *, stdin: bytes, timeout_s: int, sink: Sink) -> Ended:
        """Run a program to its end. It is killed, with all that it started, after the time limit and when cancelled.

        Args:
            argv: The program and its arguments.
            stdin: All of its standard input.
            timeout_s: Seconds until it is killed; 0 for the machine's own limit.
            sink: Takes its output.

        Raises:
            MachineError: It could not be started, or its end is not known.
        """
        ...
