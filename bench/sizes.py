"""Templates of several sizes: `python -m bench.sizes [IMAGE] [ROUNDS]`.

First one after the other by one server: the first build measures the host's clock, and leaves the image's files in the
host's page cache for the others. Then what those files cost when they are not there: in each round a server of its own
builds one template after they were dropped from the page cache, and one with all of them in it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio

from bench.figures import p50, table, timed
from bench.fleet import Host, images, opened, quiet, scratch, this_host

_SIZES = ((1, 1024), (2, 2048), (1, 2048), (2, 4096))
_ROUNDS = 3


async def main(name: str, rounds: int) -> None:
    quiet()
    host = await this_host()
    rows: list[tuple[str, str]] = []
    async with scratch() as data, opened(data, host=host) as fleet:
        for cpu, mem in _SIZES:
            took: list[float] = []
            with timed(took):
                await fleet.build_template(name, cpu=cpu, mem=mem)
            rows.append((f"{cpu}/{mem}", f"{took[0]:.1f} s"))
    print(table((f"template of {name}", "built in"), rows))
    dropped: list[float] = []
    cached: list[float] = []
    for _ in range(rounds):
        _drop(images())
        await _build(name, host, dropped)
        await _build(name, host, cached)
    both = (("dropped", dropped), ("in the page cache", cached))
    print(
        table(
            ("the image's files", "template built in", "p50"),
            [(what, ", ".join(f"{one:.1f}" for one in took), f"{p50(took):.1f} s") for what, took in both],
        )
    )


async def _build(name: str, host: Host, took: list[float]) -> None:
    cpu, mem = _SIZES[0]
    async with scratch() as data, opened(data, host=host) as fleet:
        with timed(took):
            await fleet.build_template(name, cpu=cpu, mem=mem)


def _drop(root: Path) -> None:
    """Drop the pages of all files below a directory from the page cache; what is mapped or not yet written stays."""
    os.sync()
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


if __name__ == "__main__":
    image, count = [*sys.argv[1:], *("code", str(_ROUNDS))[len(sys.argv) - 1 :]][:2]
    anyio.run(main, image, int(count))
