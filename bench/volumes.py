"""A volume against the sandbox's own disk, and what attaching it takes: `python -m bench.volumes [MIB] [FILES]`."""

from __future__ import annotations

import sys
from statistics import median

import anyio

from bench.figures import p50, seconds, table
from bench.fleet import OWNER, opened, quiet, said, scratch
from vmm.fleet import Fleet
from vmm.sandboxes.spec import SandboxSpec

_ROUNDS = 3
_TIMES = 10
_BOX, _VOLUME = "box", "data"
_PLACES = {"the sandbox's own disk": "/root/bench", "a volume": "/data/bench"}
# The guest's clock measures, so that the way to it does not count.
_FILES = """python3 - <<'END'
import os, shutil, time
begun = time.monotonic()
for number in range({files}):
    with open(f"{place}/{{number}}", "w") as file:
        file.write("x" * 1000)
os.sync()
made = time.monotonic()
for number in range({files}):
    with open(f"{place}/{{number}}") as file:
        file.read()
read = time.monotonic()
shutil.rmtree("{place}")
os.sync()
print(made - begun, read - made, time.monotonic() - read)
END"""
_DATA = """python3 - <<'END'
import os, time
block = os.urandom(1 << 20)
begun = time.monotonic()
with open("{place}/big", "wb") as file:
    for _ in range({mib}):
        file.write(block)
    os.fsync(file.fileno())
written = time.monotonic()
with open("{place}/big", "rb", buffering=0) as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    again = time.monotonic()
    while file.read(1 << 20):
        pass
print({mib} / (written - begun), {mib} / (time.monotonic() - again))
END
rm {place}/big"""


async def main(mib: int, files: int) -> None:
    quiet()
    async with scratch() as data, opened(data) as fleet:
        await fleet.volumes.create(OWNER, _VOLUME, size=2048)
        await fleet.sandboxes.create(OWNER, SandboxSpec(name=_BOX, image="code", mem=1024))
        await fleet.volumes.attach(OWNER, _BOX, _VOLUME, "/data")
        found: dict[str, list[list[float]]] = {name: [] for name in _PLACES}
        for _ in range(_ROUNDS):
            for name, place in _PLACES.items():
                found[name].append(await _round(fleet, place, mib, files))
        head = ("", "write, MiB/s", "read, MiB/s", f"{files} files made", "read", "deleted")
        print(table(head, [(name, *_medians(rounds)) for name, rounds in found.items()]))
        print()
        print(table(("what", "n", "p50"), await _steps(fleet)))


async def _round(fleet: Fleet, place: str, mib: int, files: int) -> list[float]:
    figures: list[float] = []
    for script in (_DATA, _FILES):
        line = f"mkdir -p {place}; {script.format(place=place, mib=mib, files=files)}"
        figures += [float(word) for word in (await said(fleet, _BOX, line)).split()]
    return figures


def _medians(rounds: list[list[float]]) -> list[str]:
    middle = [median(column) for column in zip(*rounds, strict=True)]
    return [f"{figure:.0f}" for figure in middle[:2]] + [f"{figure:.2f} s" for figure in middle[2:]]


async def _steps(fleet: Fleet) -> list[tuple[str, str, str]]:
    samples: dict[str, list[float]] = {"detach": [], "attach": [], "sleep": [], "wake": []}
    for _ in range(_TIMES):
        samples["detach"].append(await seconds(lambda: fleet.volumes.detach(OWNER, _BOX, _VOLUME)))
        samples["attach"].append(await seconds(lambda: fleet.volumes.attach(OWNER, _BOX, _VOLUME, "/data")))
        samples["sleep"].append(await seconds(lambda: fleet.lifecycle.sleep(OWNER, _BOX)))
        samples["wake"].append(await seconds(lambda: fleet.lifecycle.wake(OWNER, _BOX)))
    await fleet.volumes.detach(OWNER, _BOX, _VOLUME)
    for name in ("sleep, no volume", "wake, no volume"):
        samples[name] = []
    for _ in range(_TIMES):
        samples["sleep, no volume"].append(await seconds(lambda: fleet.lifecycle.sleep(OWNER, _BOX)))
        samples["wake, no volume"].append(await seconds(lambda: fleet.lifecycle.wake(OWNER, _BOX)))
    return [(name, str(len(took)), f"{p50(took) * 1000:.0f} ms") for name, took in samples.items()]


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    anyio.run(main, arguments[0] if arguments else 256, arguments[1] if len(arguments) > 1 else 10_000)
