"""Restores with cloud-hypervisor, and the fleet against a machine with nothing around it: `python -m bench.restores`.

Needs KVM and `CLOUD_HYPERVISOR_BIN`; where there is none, run it in the emulated host, whose ratios hold:
`python -m tests.kvm_host --run 'python -m bench.restores'`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from bench.figures import memory, on_disk, p50, seconds, table
from bench.fleet import OWNER, images, opened, quiet, scratch, this_host
from bench.raw.machine import Parts, RawMachine
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.hypervisor.cloud_hypervisor import CloudHypervisor
from vmm.hypervisor.process import orphans
from vmm.images.catalogue import Catalogue
from vmm.sandboxes.sandbox import Sandbox
from vmm.sandboxes.spec import SandboxSpec

_SMALL, _LARGE = 256, 1024
_ROUNDS = 7
_COPIES = 3
_EXECS = 30
_CHILDREN = 5
_SETTLE_S = 5.0
_WAIT_MS = 60_000
_HEAD = ("what", "n", "p50", "goal")

Row = Sequence[str]


async def main() -> None:
    quiet()
    host = await this_host()
    if not isinstance(host.driver, CloudHypervisor):
        raise SystemExit("This host has no cloud-hypervisor with KVM")
    found = await Catalogue(images()).find("minimal")
    assert found is not None
    async with scratch() as place:
        parts = Parts.of(os.environ["CLOUD_HYPERVISOR_BIN"], found, place)
        rows = [*await anyio.to_thread.run_sync(_restore_calls, parts, place)]
        data = place / "data"
        data.mkdir()
        async with opened(data, host=host) as fleet:
            rows += await _against_raw(fleet, parts, place)
            rows += await _shared_memory(fleet, data)
    print(table(_HEAD, rows))


def _restore_calls(parts: Parts, place: Path) -> list[Row]:
    mapped: dict[int, list[float]] = {}
    copied: dict[int, list[float]] = {}
    used: dict[int, float] = {}
    for mem in (_SMALL, _LARGE):
        shared, private = place / f"shared-{mem}", place / f"private-{mem}"
        for origin in (shared, private):
            machine = RawMachine.boot(parts, origin, mem, shared=origin is shared)
            # About as much as a guest with a whole distribution in it has used when it is ready.
            machine.run("sh", "-c", f"tr '\\0' x < /dev/zero | head -c {mem // 4}M > /run/used")
            machine.save(place / f"{origin.name}-saved")
        used[mem] = on_disk(shared / "ram")
        # In turn, so that a host that slows down slows down both.
        for turn in range(_ROUNDS):
            mapped.setdefault(mem, []).append(
                _restored(place / f"shared-{mem}-saved", parts, place / f"mapped-{mem}-{turn}", shared / "ram")
            )
            if turn < _COPIES:
                copied.setdefault(mem, []).append(
                    _restored(place / f"private-{mem}-saved", parts, place / f"copied-{mem}-{turn}", None)
                )
        for old in place.glob(f"private-{mem}*"):
            shutil.rmtree(old)
    rows = [_row(f"restore call, mapped, {mem} MiB", mapped[mem]) for mem in mapped]
    rows += [_row(f"restore call, copied, {mem} MiB, {used[mem]:.0f} of them used", copied[mem]) for mem in copied]
    for mem in (_SMALL, _LARGE):
        asked = "at least 6" if mem == _SMALL else ""
        rows.append((f"copied / mapped, {mem} MiB", "", f"{p50(copied[mem]) / p50(mapped[mem]):.1f}", asked))
    rows.append(("mapped, 1024 / 256 MiB", "", f"{p50(mapped[_LARGE]) / p50(mapped[_SMALL]):.2f}", "at most 1.5"))
    return rows


def _restored(saved: Path, parts: Parts, place: Path, mapped: Path | None) -> float:
    machine = RawMachine.clone(saved, parts, place, mapped=mapped)
    machine.run("true")
    machine.end()
    shutil.rmtree(machine.place)
    return machine.restore_s


async def _against_raw(fleet: Fleet, parts: Parts, place: Path) -> list[Row]:
    await fleet.prepare("minimal", cpu=1, mem=_SMALL)
    through: list[float] = []
    raw: list[float] = []
    for turn in range(_ROUNDS + 1):
        began = time.monotonic()
        sandbox = await _created(fleet, f"box-{turn}")
        await _true(fleet, sandbox)
        through.append(time.monotonic() - began)
        await fleet.sandboxes.delete(OWNER, sandbox.id)
        raw.append(await anyio.to_thread.run_sync(_raw_clone, parts, place, turn))
    del through[0], raw[0]
    rows = [_row("create to first exec, fleet", through), _row("clone to first exec, raw", raw)]
    rows.append(("fleet / raw, create to first exec", "", f"{p50(through) / p50(raw):.2f}", "at most 1.5"))
    return rows + await _execs(fleet, parts, place)


async def _execs(fleet: Fleet, parts: Parts, place: Path) -> list[Row]:
    sandbox = await _created(fleet, "box")
    machine = await anyio.to_thread.run_sync(_raw, parts, place, "toy")
    fleets: list[float] = []
    kept: list[float] = []
    dialled: list[float] = []
    for _ in range(_EXECS + 5):  # in turn; the first ones warm what they need
        fleets.append(await seconds(lambda: _true(fleet, sandbox)))
        kept.append(await anyio.to_thread.run_sync(_toy, machine))
        machine.hang_up()
        dialled.append(await anyio.to_thread.run_sync(_toy, machine))
    del fleets[:5], kept[:5], dialled[:5]
    await anyio.to_thread.run_sync(machine.end)
    await fleet.sandboxes.delete(OWNER, sandbox.id)
    return [
        _row("exec of true, fleet", fleets),
        _row("exec of true, toy agent, a connection for each", dialled),
        _row("exec of true, toy agent, one connection", kept),
        ("fleet / toy agent, a connection for each", "", f"{p50(fleets) / p50(dialled):.2f}", "at most 1.3"),
        ("fleet / toy agent, one connection", "", f"{p50(fleets) / p50(kept):.2f}", ""),
    ]


async def _true(fleet: Fleet, sandbox: Sandbox) -> None:
    await fleet.guest.exec(OWNER, sandbox.id, Command(argv=("true",)), wait_ms=_WAIT_MS)


def _toy(machine: RawMachine) -> float:
    began = time.monotonic()
    machine.run("true")
    return time.monotonic() - began


def _raw(parts: Parts, place: Path, name: str) -> RawMachine:
    saved = place / f"shared-{_SMALL}-saved"
    machine = RawMachine.clone(saved, parts, place / name, mapped=place / f"shared-{_SMALL}" / "ram")
    machine.run("true")
    return machine


def _raw_clone(parts: Parts, place: Path, turn: int) -> float:
    began = time.monotonic()
    machine = _raw(parts, place, f"raw-{turn}")
    took = time.monotonic() - began
    machine.end()
    shutil.rmtree(machine.place)
    return took


async def _shared_memory(fleet: Fleet, data: Path) -> list[Row]:
    clones = [await _created(fleet, f"idle-{number}") for number in range(_CHILDREN)]
    await anyio.sleep(_SETTLE_S)
    rows = _memory(data, clones, "idle clone", private="at most 6 MiB")
    for sandbox in clones[1:]:
        await fleet.sandboxes.delete(OWNER, sandbox.id)
    forks = await fleet.snapshots.fork(OWNER, clones[0].id, _CHILDREN)
    children = [fork.sandbox for fork in forks if fork.sandbox is not None]
    await anyio.sleep(_SETTLE_S)
    rows += _memory(data, children, "idle fork", proportional="at most 12 MiB")
    for sandbox in (clones[0], *children):
        await fleet.sandboxes.delete(OWNER, sandbox.id)
    return rows


def _memory(data: Path, sandboxes: Sequence[Sandbox], what: str, **asked: str) -> list[Row]:
    runs = orphans(data / "instances")
    taken = [memory(runs[data / "instances" / sandbox.machine][0].pid) for sandbox in sandboxes]
    return [
        (f"{what}, {kind} memory", str(len(taken)), f"{p50(one[kind] for one in taken):.1f} MiB", asked.get(kind, ""))
        for kind in ("private", "proportional")
    ]


async def _created(fleet: Fleet, name: str) -> Sandbox:
    return await fleet.sandboxes.create(OWNER, SandboxSpec(name=name, image="minimal", mem=_SMALL))


def _row(what: str, samples: Sequence[float]) -> Row:
    return what, str(len(samples)), f"{p50(samples):.3f} s", ""


if __name__ == "__main__":
    anyio.run(main)
