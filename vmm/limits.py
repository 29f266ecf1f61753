"""How much one owner, and all of them together, may take of the host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import HostExhausted, LimitExceeded
from .sandbox import Sandbox, State
from .spec import DISK, SandboxSpec

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerLimits:
    """What one owner may have at once. Memory and disk in MiB; a disk counts in full, however little it holds."""

    sandboxes: int = 50
    cpus: int = 100
    mem: int = 64 * 1024
    disk: int = 1024 * 1024

    def check(self, existing: Iterable[Sandbox], wish: SandboxSpec) -> None:
        """Refuse a wish that would pass a limit.

        Raises:
            LimitExceeded: The message names the limit, what is in use and what was asked for.
        """
        live = [sandbox for sandbox in existing if sandbox.state is not State.DELETED]
        if len(live) >= self.sandboxes:
            raise LimitExceeded(f"sandboxes: {len(live)} of {self.sandboxes} exist already", hint=_WAY_OUT)
        holding = [sandbox for sandbox in live if sandbox.state.holds_memory]
        cpus = sum(sandbox.cpu for sandbox in holding)
        if cpus + wish.cpu > self.cpus:
            raise LimitExceeded(f"cpu: {cpus} of {self.cpus} are in use, {wish.cpu} more do not fit", hint=_WAY_OUT)
        mem = sum(sandbox.mem for sandbox in holding)
        if mem + wish.mem > self.mem:
            raise LimitExceeded(f"mem: {mem} of {self.mem} MiB are in use, {wish.mem} more do not fit", hint=_WAY_OUT)
        disk = sum(sandbox.disk for sandbox in live)
        if disk + DISK > self.disk:
            raise LimitExceeded(f"disk: {disk} of {self.disk} MiB are in use, {DISK} more do not fit", hint=_WAY_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReserve:
    """What must stay free on the host, so that nobody's work dies for want of it. MiB.

    A guest takes memory as it touches it: a machine may start if what it takes at once fits, and if all machines
    together were promised no more than `overcommit` times the host's memory.

    Attributes:
        memory: Available memory that stays free.
        machine: Memory that a machine takes at its start.
        disk: Free disk in the data directory.
        overcommit: Promised memory as a multiple of the host's.
    """

    memory: int = 512
    machine: int = 192
    disk: int = 1024
    overcommit: float = 1.5

    def check(self, data: Path, promised: int, wish: SandboxSpec) -> None:
        """Refuse to start a machine that the host could not carry.

        Args:
            data: The data directory.
            promised: MiB of all machines that exist.
            wish: The machine to be.

        Raises:
            HostExhausted: The message says what is short.
        """
        total, available = _memory()
        if available < self.memory + self.machine:
            raise HostExhausted(
                f"The host has {available} MiB of memory available; {self.memory + self.machine} MiB are needed",
                hint=_WAY_OUT,
            )
        budget = int(total * self.overcommit)
        if promised + wish.mem > budget:
            raise HostExhausted(
                f"mem: {promised} of {budget} MiB are promised to sandboxes, {wish.mem} more do not fit", hint=_WAY_OUT
            )
        free = shutil.disk_usage(data).free // MIB
        if free < self.disk:
            raise HostExhausted(
                f"The host's disk has {free} MiB free; {self.disk} MiB must stay free",
                hint="Free space on the host, or delete sandboxes",
            )


def _memory() -> tuple[int, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES") // MIB
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return total, int(line.split()[1]) // 1024
    return total, page * os.sysconf("SC_AVPHYS_PAGES") // MIB


_WAY_OUT = "Delete a sandbox that is no longer needed, or ask the operator for a higher limit"
