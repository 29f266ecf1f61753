"""Sandboxes made and deleted again and again, and what is left of them: `python -m bench.cycles [CYCLES] [MIB]`."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from bench.figures import p50, resident, seconds, table
from bench.fleet import OWNER, opened, quiet, said, scratch
from vmm.fleet import Fleet
from vmm.hypervisor.process import orphans
from vmm.sandboxes.spec import SandboxSpec

_PARTS = 4
_HEAD = ("after cycles", "processes", "file descriptors", "cgroups", "files", "server, resident", "cycle, p50")


async def main(cycles: int, mem: int) -> None:
    quiet()
    async with scratch() as data, opened(data) as fleet:
        # What the first ones bring along is not what each one leaves.
        for _ in range(3):
            await _cycle(fleet, mem)
        rows = [(*_left(data, 0), "")]
        for part in range(1, _PARTS + 1):
            samples = [await seconds(lambda: _cycle(fleet, mem)) for _ in range(cycles // _PARTS)]
            rows.append((*_left(data, part * (cycles // _PARTS)), f"{p50(samples) * 1000:.0f} ms"))
    print(table(_HEAD, rows))


async def _cycle(fleet: Fleet, mem: int) -> None:
    sandbox = await fleet.sandboxes.create(OWNER, SandboxSpec(name="box", image="minimal", mem=mem))
    await said(fleet, sandbox.id, "true")
    await fleet.sandboxes.delete(OWNER, sandbox.id)


def _left(data: Path, cycles: int) -> tuple[str, ...]:
    processes = sum(len(found) for found in orphans(data).values())
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    cgroups = sum(1 for path in Path("/sys/fs/cgroup").rglob("*") if path.is_dir())
    files = sum(1 for _ in data.rglob("*"))
    return str(cycles), str(processes), str(descriptors), str(cgroups), str(files), f"{resident():.1f} MiB"


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    anyio.run(main, arguments[0] if arguments else 200, arguments[1] if len(arguments) > 1 else 256)
