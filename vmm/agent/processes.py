"""The host's calls about processes: run, start, list, wait, read, feed and signal."""

from __future__ import annotations

import _thread
import contextlib
import os
import time
from typing import Any

from . import frames
from .arguments import Arguments
from .channel import Channel
from .memory_kills import MemoryKills
from .output import HEAD, TAIL, OutputLog
from .process import Process, Streams
from .programs import command_program
from .refusals import GUEST, NO_PROCESS, RefusalError, invalid
from .spawn import Spawner
from .spool import Spools
from .trees import Trees
from .users import Users

_MAX_FINISHED = 100
_MAX_RUNNING = 500
_MAX_KEPT = 16 * 1024 * 1024
_MAX_KEEP = 4 * 1024 * 1024
_KEEPALIVE_S = 5.0
_RETRY_S = 0.01
_MAX_SIGNAL = 64


class Processes:
    """All processes that this agent started; the output of the latest finished ones stays readable."""

    def __init__(
        self,
        trees: Trees,
        users: Users,
        spawner: Spawner,
        null: int,
        memory_kills: MemoryKills,
        spools: Spools | None = None,
    ) -> None:
        self._trees = trees
        self._users = users
        self._spawner = spawner
        self._null = null
        self._memory_kills = memory_kills
        self._spools = spools
        self._lock = _thread.allocate_lock()
        self._table: dict[int, Process] = {}
        if spools is not None:
            spools.owners.append(self._spare)

    def run(self, channel: Channel, arguments: Arguments) -> None:
        """Start a command and answer when it is settled or `wait_ms` is over.

        If the peer disconnects before that, the command is killed unless `detach` is set.
        """
        wait = arguments.integer("wait_ms") / 1000
        detach = arguments.flag("detach")
        head, tail = _output_limits(arguments)
        process = self._start(channel, arguments, open_stdin=False)
        gone = process.pump(until=time.monotonic() + wait, watch=channel)
        if gone and not detach and not channel.retired:
            process.kill()
        elif not process.settled:
            process.background = True
        process.pump_in_background(self._trees)
        if not gone:
            with process.changed:
                value, data = _outcome(process, head, tail)
            channel.send_result(value, data)

    def start(self, channel: Channel, arguments: Arguments) -> None:
        """Start a command, and leave it running; with `hold`, `attach` with `hold` must follow soon."""
        open_stdin, hold = arguments.flag("open_stdin"), arguments.flag("hold")
        process = self._start(channel, arguments, open_stdin=open_stdin, hold=hold)
        process.background = arguments.flag("background")
        process.pump_in_background(self._trees)
        channel.send_result(process.info())

    def list(self, channel: Channel, arguments: Arguments) -> None:
        """List all processes, oldest first."""
        del arguments
        with self._lock:
            processes = list(self._table.values())
        channel.send_result({"processes": [process.info() for process in processes]})

    def forget(self, channel: Channel, arguments: Arguments) -> None:
        """Forget finished processes and their output, since the machine's next user did not start them."""
        del arguments
        with self._lock:
            self._table = {pid: process for pid, process in self._table.items() if not process.drained}
        channel.send_result({})

    def wait(self, channel: Channel, arguments: Arguments) -> None:
        """Answer when a process is settled or `wait_ms` is over."""
        process = self._find(arguments)
        head, tail = _output_limits(arguments)
        process.wait(time.monotonic() + arguments.integer("wait_ms") / 1000)
        with process.changed:
            value, data = _outcome(process, head, tail)
        channel.send_result(value, data)

    def read_output(self, channel: Channel, arguments: Arguments) -> None:
        """Read both output streams from given offsets on."""
        process = self._find(arguments)
        stdout, stderr = arguments.integer("stdout_offset", 0), arguments.integer("stderr_offset", 0)
        limit = min(arguments.integer("max_bytes", frames.MAX_DATA, least=1), _MAX_KEEP)
        if wait := arguments.integer("wait_ms", 0):
            process.wait(time.monotonic() + wait / 1000, stdout=stdout, stderr=stderr)
        with process.changed:
            stdout, out = process.stdout.read(stdout, limit)
            stderr, err = process.stderr.read(stderr, limit)
            info = process.info()
        channel.send_result({"info": info, "stdout": [stdout, len(out)], "stderr": [stderr, len(err)]}, (out, err))

    def attach(self, channel: Channel, arguments: Arguments) -> None:
        """Stream both output streams from given offsets on until the process is settled.

        With `hold`, the process is held back rather than that something is dropped before it was sent.
        """
        process, hold = self._find(arguments), arguments.flag("hold")
        stdout, stderr = arguments.integer("stdout_offset", 0), arguments.integer("stderr_offset", 0)
        with process.read_by_one() if hold else contextlib.nullcontext():
            if _follow(channel, process, stdout, stderr, hold=hold):
                channel.send_result(process.info())

    def send_stdin(self, channel: Channel, arguments: Arguments) -> None:
        """Send input to a process that was started with open input."""
        process = self._find(arguments)
        data = channel.whole_body(frames.MAX_INPUT)
        process.feed(data, eof=arguments.flag("eof"))
        channel.send_result({})

    def feed(self, channel: Channel, arguments: Arguments) -> None:
        """Send input like `send_stdin`, but wait up to `wait_ms` for room; answer a state instead of an error."""
        process = self._find(arguments)
        data = channel.whole_body(frames.MAX_INPUT)
        end = time.monotonic() + arguments.integer("wait_ms", 0) / 1000
        while (room := process.room()) is not None and room < len(data):
            if time.monotonic() >= end or channel.gone():
                channel.send_result({"state": "full"})
                return
            time.sleep(_RETRY_S)
        if room is not None:
            process.feed(data, eof=arguments.flag("eof"))
        channel.send_result({"state": "closed" if room is None else "taken"})

    def signal(self, channel: Channel, arguments: Arguments) -> None:
        """Send a signal to a process's whole tree."""
        process = self._find(arguments)
        number = arguments.integer("signal", 15, least=1)
        if number > _MAX_SIGNAL:
            raise invalid(f"signal must be 1 to {_MAX_SIGNAL}, got {number}")
        process.signal(number)
        channel.send_result({})

    def close(self) -> None:
        """Kill all processes that still run."""
        with self._lock:
            processes = list(self._table.values())
        for process in processes:
            process.kill()

    def _start(self, channel: Channel, arguments: Arguments, *, open_stdin: bool, hold: bool = False) -> Process:
        program = command_program(arguments, self._users)
        timeout = arguments.integer("timeout_ms", 0) / 1000
        stdin = channel.whole_body(frames.MAX_STDIN)
        running = self._make_room()
        tail = TAIL if running < 8 else TAIL // 4 if running < 32 else TAIL // 16
        streams, child_ends = _pipes(stdin, self._null, open_stdin=open_stdin)
        tree = self._trees.new()
        try:
            child = self._spawner.spawn(program, tree, child_ends)
        except BaseException:
            _close(streams.stdin, streams.stdout, streams.stderr)
            self._trees.retire(tree)
            raise
        finally:
            _close(*(fd for fd in child_ends if fd != self._null))
        process = Process(
            child=child,
            label=program.label,
            tree=tree,
            streams=streams,
            stdout=OutputLog(tail=tail, spools=self._spools),
            stderr=OutputLog(tail=tail, spools=self._spools),
            timeout=timeout,
            memory_kills=self._memory_kills,
            hold=hold,
        )
        with self._lock:
            self._table.pop(process.pid, None)
            self._table[process.pid] = process
        return process

    def _find(self, arguments: Arguments) -> Process:
        pid = arguments.integer("pid")
        with self._lock:
            process = self._table.get(pid)
        if process is None:
            raise RefusalError(NO_PROCESS, f"pid: there is no process {pid} that Casemate started; list the processes")
        return process

    def _make_room(self) -> int:
        """Forget the oldest finished processes beyond the limits; return the number of unfinished ones."""
        with self._lock:
            finished = [process for process in self._table.values() if process.drained]
            running = len(self._table) - len(finished)
            if running >= _MAX_RUNNING:
                raise RefusalError(GUEST, f"processes must be at most {_MAX_RUNNING}, got {running} running; end some")
            # Commands whose callers have waited are many, and do not displace those that are looked up later.
            for background in (True, False):
                ended = [process for process in finished if process.background is background]
                for process in ended[: max(0, len(ended) - _MAX_FINISHED + 1)]:
                    del self._table[process.pid]
        kept = 0
        for process in reversed(finished):
            kept += process.stdout.kept + process.stderr.kept
            if kept > _MAX_KEPT:
                process.shed()
        if self._spools is not None:
            self._spools.make_room()
        return running

    def _spare(self) -> None:
        with self._lock:
            finished = [process for process in self._table.values() if process.drained]
        for process in finished:
            if self._spools is None or self._spools.roomy():
                break
            process.drop()


def _follow(channel: Channel, process: Process, stdout: int, stderr: int, *, hold: bool) -> bool:
    """Send both streams from given offsets on; return whether the peer stayed until the process was settled."""
    limit = frames.MAX_DATA
    next_keepalive = time.monotonic() + _KEEPALIVE_S
    while True:
        with process.changed:
            out_start, out = process.stdout.read(stdout, limit)
            err_start, err = process.stderr.read(stderr, limit)
            over = process.settled
        if out:
            channel.send(frames.STDOUT, frames.OFFSET.pack(out_start) + out)
        if err:
            channel.send(frames.STDERR, frames.OFFSET.pack(err_start) + err)
        stdout, stderr = out_start + len(out), err_start + len(err)
        if out or err:
            if hold:
                process.advance(stdout, stderr)
            next_keepalive = time.monotonic() + _KEEPALIVE_S
            continue
        if over:
            return True
        now = time.monotonic()
        if now >= next_keepalive:
            channel.send(frames.DATA, b"")  # So that the host can tell a silent process from a dead link.
            next_keepalive = now + _KEEPALIVE_S
        process.wait(min(next_keepalive, now + 1.0), stdout=stdout, stderr=stderr)
        if channel.gone():
            return False


def _output_limits(arguments: Arguments) -> tuple[int, int]:
    head = arguments.integer("keep_head", HEAD)
    tail = arguments.integer("keep_tail", HEAD)
    return min(head, _MAX_KEEP), min(tail, _MAX_KEEP)


def _outcome(process: Process, head: int, tail: int) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    out = process.stdout.ends(head, tail)
    err = process.stderr.ends(head, tail)
    value = {
        "pid": process.pid,
        "stdout": [len(out[0]), len(out[1]), process.stdout.total],
        "stderr": [len(err[0]), len(err[1]), process.stderr.total],
        **process.status(),
    }
    return value, (*out, *err)


def _pipes(stdin: bytes, null: int, *, open_stdin: bool) -> tuple[Streams, tuple[int, int, int]]:
    """Create the pipes; return the agent's ends and the process's ends."""
    opened: list[int] = []
    try:
        input_read, input_write = null, -1
        if stdin or open_stdin:
            input_read, input_write = os.pipe2(os.O_CLOEXEC)
            opened += (input_read, input_write)
            os.set_blocking(input_write, False)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        opened += (out_read, out_write)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
    except OSError:
        _close(*opened)
        raise
    streams = Streams(stdin=input_write, stdout=out_read, stderr=err_read, pending=stdin, keep_stdin=open_stdin)
    return streams, (input_read, out_write, err_write)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
