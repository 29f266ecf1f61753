"""What an image costs: its size, its templates, creates and first commands: `python -m bench.templates [RUNS] [IMAGE]`.

`CASEMATE_BENCH_IMAGES` names the images, so that two of them can be compared in turn.
"""

from __future__ import annotations

import sys

import anyio

from bench.figures import on_disk, p50, table, timed
from bench.fleet import OWNER, images, opened, quiet, said, scratch, this_host
from vmm.images.catalogue import Catalogue
from vmm.sandboxes.spec import SandboxSpec

_MIB = 1024 * 1024
_CREATES = 10
_MEM = 1024


async def main(runs: int, name: str) -> None:
    quiet()
    base = (await Catalogue(images()).require(name)).base
    templates: list[float] = []
    creates: list[float] = []
    firsts: list[float] = []
    host = await this_host()
    for _ in range(runs):
        async with scratch() as data, opened(data, host=host) as fleet:
            with timed(templates):
                await fleet.prepare(name, cpu=1, mem=_MEM)
            for turn in range(_CREATES + 1):
                taken: tuple[list[float], list[float]] = ([], [])
                with timed(taken[0]):
                    box = await fleet.sandboxes.create(OWNER, SandboxSpec(name="box", image=name, mem=_MEM))
                with timed(taken[1]):
                    await said(fleet, box.id, "true")
                await fleet.sandboxes.delete(OWNER, box.id)
                if turn:  # the first reads files that later ones find in memory
                    creates += taken[0]
                    firsts += taken[1]
    rows = [
        ("base.ext4, apparent", "1", f"{base.stat().st_size / _MIB:.0f} MiB", ""),
        ("base.ext4, allocated", "1", f"{on_disk(base):.0f} MiB", ""),
    ]
    for what, samples in (("template", templates), ("create", creates), ("first exec", firsts)):
        rows.append((what, str(len(samples)), f"{p50(samples):.3f} s", f"{max(samples):.3f} s"))
    whole = [create + first for create, first in zip(creates, firsts, strict=True)]
    rows.append(("create to first exec", str(len(whole)), f"{p50(whole):.3f} s", f"{max(whole):.3f} s"))
    print(table((f"image {name}", "n", "p50", "slowest"), rows))


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else "code")
