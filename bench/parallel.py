"""Commands at once in one sandbox, and how many were lost: `python -m bench.parallel [CALLS] [AT ONCE] [ORIGIN...]`.

Origins: `booted` from the kernel, `created` as a clone of the template, `woken` from sleep, `forked`. The commands run
in bursts, every other one over connections that are new; what was lost is told, and the status is 1 then.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from bench.figures import table
from bench.fleet import OWNER, opened, quiet, said, scratch
from vmm.errors import CasemateError
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.hypervisor.process import orphans
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec

_ORIGINS = ("booted", "created", "woken", "forked")
_HEAD = ("machine", "calls", "at once", "lost", "p50", "p99", "slowest", "calls a second")
_IMAGE, _MIB = "minimal", 256
_WAIT_MS = 20_000


async def main(calls: int, at_once: int, origins: Sequence[str]) -> None:
    quiet()
    rows: list[Sequence[str]] = []
    lost: list[str] = []
    async with scratch() as data, opened(data) as fleet:
        await fleet.prepare(_IMAGE, cpu=1, mem=_MIB)
        for origin in origins:
            async with _sandbox(fleet, data, origin) as sandbox:
                rows.append((origin, *await _measured(fleet, sandbox.id, calls, at_once, lost)))
    print(table(_HEAD, rows))
    for what in sorted(set(lost)):
        print(f"{lost.count(what)} times: {what}")
    if lost:
        raise SystemExit(1)


async def _measured(fleet: Fleet, ref: str, calls: int, at_once: int, lost: list[str]) -> Sequence[str]:
    took: list[float] = []
    before = len(lost)

    async def call() -> None:
        began = time.monotonic()
        try:
            outcome = await fleet.guest.exec(OWNER, ref, Command(argv=("true",)), wait_ms=_WAIT_MS)
            if outcome.exit_code != 0:
                lost.append(str(outcome))
        except CasemateError as error:
            lost.append(str(error))
        took.append(time.monotonic() - began)

    began = time.monotonic()
    for burst in range(calls // at_once):
        if burst % 2:
            async with fleet.guest.reach(OWNER, ref) as (_, link):
                await link.drop_connections()
        async with anyio.create_task_group() as tasks:
            for _ in range(at_once):
                tasks.start_soon(call)
    rate = len(took) / (time.monotonic() - began)
    p50, p99 = statistics.median(took), statistics.quantiles(took, n=100)[98]
    times = (f"{p50:.2f} s", f"{p99:.2f} s", f"{max(took):.2f} s")
    return str(len(took)), str(at_once), str(len(lost) - before), *times, f"{rate:.1f}"


@asynccontextmanager
async def _sandbox(fleet: Fleet, data: Path, origin: str) -> AsyncGenerator[Sandbox]:
    sandbox = await fleet.sandboxes.create(OWNER, SandboxSpec(name="box", image=_IMAGE, mem=_MIB))
    found = sandbox
    if origin == "booted":
        found = await _booted(fleet, data, sandbox)
    elif origin == "woken":
        await said(fleet, sandbox.id, "true")
        await fleet.lifecycle.sleep(OWNER, sandbox.id)
        await fleet.lifecycle.wake(OWNER, sandbox.id)
    elif origin == "forked":
        (fork,) = await fleet.snapshots.fork(OWNER, sandbox.id, 1)
        assert fork.sandbox is not None, fork.error
        found = fork.sandbox
    yield found
    for one in {sandbox.id, found.id}:
        await fleet.sandboxes.delete(OWNER, one)


async def _booted(fleet: Fleet, data: Path, sandbox: Sandbox) -> Sandbox:
    """The sandbox, started from its disk: what becomes of one whose machine died."""
    for process in orphans(data / "instances")[data / "instances" / sandbox.machine]:
        await process.kill()
    with anyio.fail_after(30):
        while (await fleet.sandboxes.get(OWNER, sandbox.id)).state is State.RUNNING:
            await anyio.sleep(0.05)
    return await fleet.lifecycle.revive(OWNER, sandbox.id)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    anyio.run(
        main,
        int(arguments[0]) if arguments else 2000,
        int(arguments[1]) if len(arguments) > 1 else 40,
        tuple(arguments[2:]) or _ORIGINS,
    )
