"""Templates of several sizes, built one after the other by one server: `python -m bench.sizes [IMAGE]`.

The first measures the host's clock; the others use what it found.
"""

from __future__ import annotations

import sys

import anyio

from bench.figures import table, timed
from bench.fleet import opened, quiet, scratch, this_host

_SIZES = ((1, 1024), (2, 2048), (1, 2048), (2, 4096))


async def main(name: str) -> None:
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


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "code")
