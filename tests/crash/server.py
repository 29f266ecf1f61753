"""Servers that are killed in the middle of an operation, each a fork of a process in which everything is loaded.

`python -m tests.crash.server` reads one request per line, lets a forked server carry it out, and answers with what
became of that server. What it logs goes to the file that the request names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import anyio
import anyio.to_thread

from bench.fleet import Host, this_host
from tests.crash.operations import OPERATIONS
from tests.crash.serving import serving
from tests.crash.steps import Steps, count

_LOST = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a server shall do, and when it shall die.

    Attributes:
        data: Its data directory.
        images: Where the images are.
        operation: A name in OPERATIONS.
        subject: Ids of what the operation is about, by the names of its arguments.
        own_memory: Whether machines have memory files of their own from the start.
        taps: Whether machines have taps; then only steps that concern those are counted.
        last: After this step, counted from 1, the server is killed.
        log: Where it logs.
    """

    data: str
    images: str
    operation: str
    subject: dict[str, str]
    own_memory: bool
    taps: bool
    last: int
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of a server.

    Attributes:
        survived: Whether it came to the end of the operation, for it has fewer steps.
        steps: Those that it took.
        log: What it logged.
    """

    survived: bool
    steps: tuple[str, ...]
    log: str


class Nursery:
    """The process that servers are forked from."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def open(cls) -> Generator[Self]:
        """A nursery for the length of a block."""
        command = [sys.executable, "-m", "tests.crash.server"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            yield cls(process)
            process.communicate()

    async def grant(self, request: Request) -> Fate:
        """Run a server and wait for its end."""
        return await anyio.to_thread.run_sync(self._grant, request)

    def _grant(self, request: Request) -> Fate:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(asdict(request)), file=self._process.stdin, flush=True)
        status = json.loads(self._process.stdout.readline())
        steps = tuple(Path(f"{request.log}.steps").read_text().splitlines())
        log = Path(request.log).read_text()
        if status not in {0, -9}:
            raise AssertionError(f"{request.operation} failed by itself after {steps}:\n{log}")
        return Fate(survived=status == 0, steps=steps, log=log)


def main() -> None:
    """Serve requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is logged is no answer
    host = anyio.run(this_host)
    for line in sys.stdin:
        request = Request(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            _serve(request, host)
        _, status = os.waitpid(pid, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), file=answers, flush=True)


def _serve(request: Request, host: Host) -> None:
    try:
        log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        written = os.open(f"{request.log}.steps", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        anyio.run(_operate, request, host, Steps(request.last, written))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(_LOST)
    os._exit(0)


async def _operate(request: Request, host: Host, steps: Steps) -> None:
    count(steps, taps=request.taps)
    data, images = Path(request.data), Path(request.images)
    async with serving(data, images, host, own_memory=request.own_memory, taps=request.taps) as fleet:
        steps.arm()
        await OPERATIONS[request.operation](fleet, **request.subject)
        steps.disarm()


if __name__ == "__main__":
    main()
