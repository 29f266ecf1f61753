"""How much one owner, and all of them together, may take of the host."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..disk.os_errors import file_system, translate_os_errors
from ..errors import HostExhausted, LimitExceeded
from .host_memory import read_memory
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
            raise LimitExceeded(f"sandboxes: {used.sandboxes} of {self.sandboxes} exist already", hint=_HINT)
        _check_quota("disk", used.disk, DISK, self.disk, " MiB")
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
        _check_quota("cpu", used.cpus, cpu, self.cpus, "")
        _check_quota("mem", used.mem, mem, self.mem, " MiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReserve:
    """What must stay free on the host, so that nobody's work dies for want of it. MiB.

    A guest takes memory as it touches it: a machine may start if what it takes at once fits, and if all machines
    together were promised no more than `overcommit` times the host's memory.

    Attributes:
        memory: Available memory that stays free.
        machine: Memory that a machine takes at its start.
        disk: Free disk wherever machines and what they are made from lie.
        overcommit: Promised memory as a multiple of the host's, or of what the server's container may have.
    """

    memory: int = 512
    machine: int = 192
    disk: int = 1024
    overcommit: float = 1.5

    def check(self, places: Iterable[Path], promised: int, mem: int) -> None:
        """Refuse to start a machine that the host could not carry.

        Args:
            places: Where it writes; each may lie on a disk of its own.
            promised: MiB of all machines that exist.
            mem: MiB of the machine to be.

        Raises:
            HostExhausted: The message says what is short.
        """
        memory = read_memory()
        if memory.available < self.memory + self.machine:
            raise HostExhausted(
                f"{memory.source} has {memory.available} MiB of memory available; "
                f"{self.memory + self.machine} MiB are needed",
                hint=_HINT,
            )
        budget = int(memory.total * self.overcommit)
        if promised + mem > budget:
            raise HostExhausted(
                f"mem: {promised} of {budget} MiB are promised to sandboxes, {mem} more do not fit", hint=_HINT
            )
        for place in places:
            self.check_disk(place)

    def check_disk(self, place: Path) -> None:
        """Refuse to write much where there is little room.

        Args:
            place: Where; it need not be there yet.

        Raises:
            HostExhausted: The message says how much there is.
        """
        with translate_os_errors("a look at the disk", place):
            mounted = file_system(place)
            free = shutil.disk_usage(next(step for step in (place, *place.parents) if step.exists())).free // MIB
        if free < self.disk:
            raise HostExhausted(
                f"The host's disk has {free} MiB free on {mounted}; {self.disk} MiB must stay free",
                hint="Free space on the host, or delete sandboxes",
            )


def _check_quota(name: str, used: int, more: int, most: int, unit: str) -> None:
    if used + more > most:
        raise LimitExceeded(f"{name}: {used} of {most}{unit} are in use, {more} more do not fit", hint=_HINT)


_HINT = "Delete a sandbox that is no longer needed, or ask the operator for a higher limit"
