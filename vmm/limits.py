"""How much one owner, and all of them together, may take of the host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import HostExhausted, LimitExceeded
from .sandbox import Sandbox
from .spec import DISK
from .usage import Usage

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerLimits:
    """What one owner may have at once. Memory and disk in MiB; a disk counts in full, however little it holds."""

    sandboxes: int = 50
    cpus: int = 100
    mem: int = 64 * 1024
    disk: int = 1024 * 1024
    snapshots: int = 200

    def check(self, existing: Iterable[Sandbox], *, cpu: int, mem: int) -> None:
        """Refuse one sandbox more if it would pass a limit.

        Raises:
            LimitExceeded: The message names the limit, what is in use and what was asked for.
        """
        used = Usage.of(existing)
        if used.sandboxes >= self.sandboxes:
            raise LimitExceeded(f"sandboxes: {used.sandboxes} of {self.sandboxes} exist already", hint=_WAY_OUT)
        _check_room("disk", used.disk, DISK, self.disk, " MiB")
        self._check_running(used, cpu, mem)

    def check_running(self, existing: Iterable[Sandbox], *, cpu: int, mem: int) -> None:
        """Refuse to run one of the sandboxes that exist if it would pass a limit.

        Raises:
            LimitExceeded: As `check`.
        """
        self._check_running(Usage.of(existing), cpu, mem)

    def check_snapshots(self, existing: int) -> None:
        """Refuse one snapshot more if it would pass the limit.

        Raises:
            LimitExceeded: As `check`.
        """
        if existing >= self.snapshots:
            raise LimitExceeded(
                f"snapshots: {existing} of {self.snapshots} exist already",
                hint="Delete one that is no longer needed, or ask the operator for a higher limit",
            )

    def _check_running(self, used: Usage, cpu: int, mem: int) -> None:
        _check_room("cpu", used.cpus, cpu, self.cpus, "")
        _check_room("mem", used.mem, mem, self.mem, " MiB")


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

    def check(self, data: Path, promised: int, mem: int) -> None:
        """Refuse to start a machine that the host could not carry.

        Args:
            data: The data directory.
            promised: MiB of all machines that exist.
            mem: MiB of the machine to be.

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
        if promised + mem > budget:
            raise HostExhausted(
                f"mem: {promised} of {budget} MiB are promised to sandboxes, {mem} more do not fit", hint=_WAY_OUT
            )
        self.check_disk(data)

    def check_disk(self, data: Path) -> None:
        """Refuse to write much where there is little room.

        Raises:
            HostExhausted: The message says how much there is.
        """
        free = shutil.disk_usage(data).free // MIB
        if free < self.disk:
            raise HostExhausted(
                f"The host's disk has {free} MiB free; {self.disk} MiB must stay free",
                hint="Free space on the host, or delete sandboxes",
            )


def _check_room(name: str, used: int, more: int, most: int, unit: str) -> None:
    if used + more > most:
        raise LimitExceeded(f"{name}: {used} of {most}{unit} are in use, {more} more do not fit", hint=_WAY_OUT)


def _memory() -> tuple[int, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES") // MIB
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return total, int(line.split()[1]) // 1024
    return total, page * os.sysconf("SC_AVPHYS_PAGES") // MIB


_WAY_OUT = "Delete a sandbox that is no longer needed, or ask the operator for a higher limit"
