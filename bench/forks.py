"""Forks at once while other programs keep the host busy: `python -m bench.forks [COUNT] [MIB] [BUSY PROGRAMS]`.

Tells how many there are, how many of them answer, how many were made at the same time, and the time that it took.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from bench.figures import table
from bench.fleet import OWNER, opened, quiet, said, scratch
from vmm.fleet import Fleet
from vmm.lifecycle.forks import Fork
from vmm.sandboxes.sandbox import Sandbox
from vmm.sandboxes.spec import SandboxSpec

_HEAD = ("forks requested", "busy programs", "made", "answer", "being made at once", "took")
_IMAGE = "minimal"
_LOOK_S = 0.01


async def main(count: int, mem: int, busy: int) -> None:
    quiet()
    rows: list[Sequence[str]] = []
    failed: list[str] = []
    async with scratch() as data, opened(data) as fleet:
        await fleet.prepare(_IMAGE, cpu=1, mem=mem)
        parent = await fleet.sandboxes.create(OWNER, SandboxSpec(name="box", image=_IMAGE, mem=mem))
        await said(fleet, parent.id, "echo kept > /dev/shm/word")
        with _busy(busy):
            rows.append(await _forked(fleet, data, parent, count, busy, failed))
    print(table(_HEAD, rows))
    for error in failed:
        print(error)
    if failed:
        raise SystemExit(1)


async def _forked(
    fleet: Fleet, data: Path, parent: Sandbox, count: int, programs: int, failed: list[str]
) -> Sequence[str]:
    most = 0

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, await anyio.to_thread.run_sync(_in_the_making, data / "instances"))
            await anyio.sleep(_LOOK_S)

    forks: tuple[Fork, ...] = ()
    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        forks = await fleet.snapshots.fork(OWNER, parent.id, count)
        tasks.cancel_scope.cancel()
    took = time.monotonic() - began
    made = [fork.sandbox for fork in forks if fork.sandbox is not None]
    failed += [str(fork.error) for fork in forks if fork.error is not None]
    answers = [await said(fleet, child.id, "cat /dev/shm/word") for child in made]
    for child in made:
        await fleet.sandboxes.delete(OWNER, child.id)
    return str(count), str(programs), str(len(made)), str(answers.count("kept")), str(most), f"{took:.1f} s"


def _in_the_making(instances: Path) -> int:
    """How many machines have a directory, and are not written down yet."""
    return sum(not (place / "machine.json").exists() for place in instances.iterdir())


@contextmanager
def _busy(programs: int) -> Generator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


if __name__ == "__main__":
    count, mem, busy = (*map(int, sys.argv[1:]), *(40, 256, 4)[len(sys.argv) - 1 :])
    anyio.run(main, count, mem, busy)
