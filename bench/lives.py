"""What a sandbox goes through, in the fleet: `python -m bench.lives [RUNS] [IMAGE] [MIB]`.

Create, first command, snapshot, restore, sleep and wake (for the first time, and later), fork of one and of ten.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence

import anyio

from bench.figures import p50, table, timed
from bench.fleet import OWNER, opened, quiet, said, scratch
from vmm.fleet import Fleet
from vmm.sandboxes.sandbox import Sandbox
from vmm.sandboxes.spec import SandboxSpec

_MANY = 10
_HEAD = ("what", "n", "p50", "slowest", "goal")
_CREATE, _FIRST = "create", "first exec"
_SLEEP, _WAKE = "sleep", "wake"
_SLEEP_LATER, _WAKE_LATER = "sleep, not the first", "wake, not the first"
_WAKE_EXEC = "wake by a command, with the command"
_FORK, _FORKS = "fork of 1", f"fork of {_MANY}"
_ASKED = {_CREATE: "at most 0.8 s", _SLEEP: "at most 2 s", _WAKE: "at most 1 s"}


async def main(runs: int, image: str, mem: int) -> None:
    quiet()
    samples: dict[str, list[float]] = defaultdict(list)
    async with scratch() as data, opened(data) as fleet:
        await fleet.prepare(image, cpu=1, mem=mem)
        for turn in range(runs + 1):
            await _life(fleet, SandboxSpec(name="box", image=image, mem=mem), samples)
            if turn == 0:
                samples.clear()  # the first of all reads files that later ones find in memory
    print(table(_HEAD, [*_rows(samples), *_ratios(samples)]))


async def _life(fleet: Fleet, spec: SandboxSpec, samples: dict[str, list[float]]) -> None:
    with timed(samples[_CREATE]):
        box = await fleet.sandboxes.create(OWNER, spec)
    with timed(samples[_FIRST]):
        await said(fleet, box.id, "true")
    for what, count in ((_FORK, 1), (_FORKS, _MANY)):
        with timed(samples[what]):
            forks = await fleet.snapshots.fork(OWNER, box.id, count)
        for fork in forks:
            if fork.sandbox is None:
                raise SystemExit(f"{what}: {fork.error}")
            await fleet.sandboxes.delete(OWNER, fork.sandbox.id)
    with timed(samples["snapshot"]):
        snapshot = await fleet.snapshots.take(OWNER, box.id)
    with timed(samples["restore"]):
        await fleet.snapshots.restore(OWNER, box.id, snapshot.id)
    await _slept(fleet, box, samples, _SLEEP, _WAKE)
    await _slept(fleet, box, samples, _SLEEP_LATER, _WAKE_LATER)
    with timed(samples["snapshot, after a sleep"]):
        later = await fleet.snapshots.take(OWNER, box.id)
    with timed(samples["fork of 1, after a sleep"]):
        (fork,) = await fleet.snapshots.fork(OWNER, box.id, 1)
    await fleet.lifecycle.sleep(OWNER, box.id)
    with timed(samples[_WAKE_EXEC]):
        await said(fleet, box.id, "true")
    for sandbox in (box, fork.sandbox):
        if sandbox is not None:
            await fleet.sandboxes.delete(OWNER, sandbox.id)
    for taken in (later, snapshot):
        await fleet.snapshots.delete(OWNER, taken.id)


async def _slept(fleet: Fleet, box: Sandbox, samples: dict[str, list[float]], sleep: str, wake: str) -> None:
    with timed(samples[sleep]):
        await fleet.lifecycle.sleep(OWNER, box.id)
    with timed(samples[wake]):
        await fleet.lifecycle.wake(OWNER, box.id)
    await said(fleet, box.id, "true")


def _rows(samples: Mapping[str, Sequence[float]]) -> list[Sequence[str]]:
    return [
        (what, str(len(taken)), f"{p50(taken):.3f} s", f"{max(taken):.3f} s", _ASKED.get(what, ""))
        for what, taken in samples.items()
    ]


def _ratios(samples: Mapping[str, Sequence[float]]) -> list[Sequence[str]]:
    return [
        (f"{one} / {other}", "", f"{p50(samples[one]) / p50(samples[other]):.2f}", "", f"at most {most}")
        for one, other, most in ((_FORKS, _FORK, 3), (_WAKE, _CREATE, 1.5), (_WAKE_LATER, _CREATE, 1.5))
    ]


if __name__ == "__main__":
    given = sys.argv[1:]
    anyio.run(
        main,
        int(given[0]) if given else 10,
        given[1] if len(given) > 1 else "code",
        int(given[2]) if len(given) > 2 else 1024,
    )
