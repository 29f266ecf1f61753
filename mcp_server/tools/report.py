"""Formats a command's result: its output, its errors, and a last line that says how it ended or how to continue.

standard output
[stderr]
standard error
[exit 1 | 230 ms]
[network: refused example.com:443 ...]     what the sandbox tried meanwhile and its policy forbids
"""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

from ..exit_reason import why_killed
from .output import clean, shape, share, whole_characters

if TYPE_CHECKING:
    from vmm.guest.values import Outcome, OutputSlice, ProcessInfo, ProcessOutput

_KEPT_COMMAND = 200
_LAST_LINES = 400


def outcome_text(outcome: Outcome, sandbox: str, *, budget: int, timeout_s: float) -> str:
    """Format a command's output within `budget` characters, with a last line that always states its status.

    Args:
        outcome: The command's outcome.
        sandbox: Id or name of its sandbox, for the calls that the text suggests.
        budget: The maximum number of characters of both streams together.
        timeout_s: The command's time limit, in seconds.
    """
    first, second = share(
        max(budget - _LAST_LINES - len(outcome.network), 0), outcome.stdout.total, outcome.stderr.total
    )

    def read_on(stream: str) -> str:
        return f"read_process_output(id={json.dumps(sandbox)}, pid={outcome.pid}, {stream}_offset="

    stdout = shape(outcome.stdout, first, lambda offset: f"Read on: {read_on('stdout')}{offset})")
    stderr = shape(outcome.stderr, second, lambda offset: f"Read on: {read_on('stderr')}{offset})")
    parts = [_block(stdout.text), _stderr(stderr.text)]
    if stdout.replaced or stderr.replaced:
        parts.append("[some bytes are not UTF-8 and show as \ufffd]\n")
    if outcome.running:
        call = f"{read_on('stdout')}{outcome.stdout.total}, stderr_offset={outcome.stderr.total}, wait=30)"
        stop = f"kill_process(id={json.dumps(sandbox)}, pid={outcome.pid})"
        parts.append(f"[still running after {_duration(outcome.duration_ms)} as pid {outcome.pid}. ")
        parts.append(f"Read on: {call}. Stop: {stop}]")
    else:
        how = _ending(outcome, timeout_s=timeout_s)
        parts.append(f"[{how} | {_duration(outcome.duration_ms)}]")
    return "".join(parts) + _refusals(outcome.network)


def output_text(output: ProcessOutput, sandbox: str, *, stdout_from: int = 0, stderr_from: int = 0) -> str:
    """Format a process's output from some offsets on, and say where to continue and what is not kept there."""
    info = output.info
    stdout, next_stdout = _slice_text(output.stdout, final=not info.running)
    stderr, next_stderr = _slice_text(output.stderr, final=not info.running)
    parts = [_gap("stdout", output.stdout, min(stdout_from, info.stdout_total)), _block(stdout)]
    parts += [_gap("stderr", output.stderr, min(stderr_from, info.stderr_total)), _stderr(stderr)]
    left = max(info.stdout_total - next_stdout, 0) + max(info.stderr_total - next_stderr, 0)
    more = (
        f"read_process_output(id={json.dumps(sandbox)}, pid={info.pid}, "
        f"stdout_offset={next_stdout}, stderr_offset={next_stderr}"
    )
    if left:
        ending = "still running" if info.running else _ending(info)
        parts.append(f"[{ending}, {left} more bytes: {more})]")
    elif info.running:
        parts.append(f"[still running after {_duration(info.duration_ms)}. Read on: {more}, wait=30)]")
    else:
        ending = _ending(info)
        parts.append(f"[{ending} | {_duration(info.duration_ms)} | all output read]")
    return "".join(parts) + _refusals(output.network)


def process_line(info: ProcessInfo) -> str:
    """Format a process as a line of a list."""
    state = "running" if info.running else _ending(info)
    command = info.command if len(info.command) <= _KEPT_COMMAND else f"{info.command[:_KEPT_COMMAND]}…"
    written = f"stdout {info.stdout_total} B, stderr {info.stderr_total} B"
    return f"pid {info.pid} | {state} | {_duration(info.duration_ms)} | {written} | {clean(command.encode())[0]}"


def _refusals(lines: str) -> str:
    return f"\n{lines.strip()}" if lines else ""


def _slice_text(part: OutputSlice, *, final: bool) -> tuple[str, int]:
    """Decode the slice, and return where to continue: an incomplete last character is left for the next call."""
    data = part.data
    if not final or part.next_offset > part.offset + len(data):
        data = data[: whole_characters(data)]
    text, _ = clean(data)
    return text, part.offset + len(data)


def _gap(name: str, part: OutputSlice, begin: int) -> str:
    return f"[{part.offset - begin} bytes of {name} are not kept]\n" if part.offset > begin else ""


def _block(text: str) -> str:
    return f"{text}\n" if text and not text.endswith("\n") else text


def _stderr(text: str) -> str:
    return f"[stderr]\n{_block(text)}" if text else ""


def _ending(status: Outcome | ProcessInfo, *, timeout_s: float = 0) -> str:
    if status.timed_out:
        limit = f" of {timeout_s:g} s" if timeout_s else ""
        return f"killed by its timeout{limit} | exit {status.exit_code}"
    if status.memory_kill:
        return f"{why_killed(status)} | exit {status.exit_code}"
    if status.signal is not None:
        return f"killed by {_signal_name(status.signal)} | exit {status.exit_code}"
    return f"exit {status.exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _duration(milliseconds: int) -> str:
    return f"{milliseconds} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"
