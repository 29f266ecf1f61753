"""How much of the host one owner may use, and all owners together."""

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
    """What one owner may have at once. Memory and disks in MiB; a disk counts in full, however little it holds."""

    sandboxes: int = 50
    cpus: int = 100
    mem: int = 64 * 1024
    disk: int = 1024 * 1024
    snapshots: int = 200
    volumes: int = 100
    volume_disk: int = 1024 * 1024

    def check(self, existing: Iterable[Sandbox], *, cpu: int, mem: int) -> None:
        """Refuse a new sandbox that would exceed a limit.

        Raises:
            LimitExceeded: The message names the limit, what is in use and what was requested.
        """
        used = Usage.of(existing)
        if used.sandboxes >= self.sandboxes:
            raise LimitExceeded(
                f"sandboxes must be at most {self.sandboxes}, got {used.sandboxes} existing and 1 more", hint=_HINT
            )
        _check_quota("disk", used.disk, DISK, self.disk, " MiB")
        self._check_running(used, cpu, mem)

    def check_running(self, existing: Iterable[Sandbox], *, cpu: int, mem: int) -> None:
        """Refuse to run an existing sandbox if it would exceed a limit.

        Raises:
            LimitExceeded: As `check`.
        """
        self._check_running(Usage.of(existing), cpu, mem)

    def check_snapshots(self, existing: int) -> None:
        """Refuse a new snapshot that would exceed the limit.

        Raises:
            LimitExceeded: As `check`.
        """
        if existing >= self.snapshots:
            raise LimitExceeded(
                f"snapshots must be at most {self.snapshots}, got {existing} existing and 1 more",
                hint="Delete one that is no longer needed, or ask the operator for a higher limit",
            )

    def check_volume(self, existing: int, used: int, size: int) -> None:
        """Refuse a new volume that would exceed a limit.

        Args:
            existing: How many volumes the owner has.
            used: MiB of them together.
            size: MiB of the new one.

        Raises:
            LimitExceeded: As `check`.
        """
        hint = "Delete a volume that is no longer needed, or ask the operator for a higher limit"
        if existing >= self.volumes:
            raise LimitExceeded(
                f"volumes must be at most {self.volumes}, got {existing} existing and 1 more", hint=hint
            )
        if used + size > self.volume_disk:
            raise LimitExceeded(
                f"size must be at most {max(0, self.volume_disk - used)} MiB ({used} of {self.volume_disk} MiB of "
                f"volumes are in use), got {size} MiB",
                hint=hint,
            )

    def _check_running(self, used: Usage, cpu: int, mem: int) -> None:
        _check_quota("cpu", used.cpus, cpu, self.cpus, "")
        _check_quota("mem", used.mem, mem, self.mem, " MiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReserve:
    """What must stay free on the host, so that running work does not fail for lack of it. MiB.

    A guest takes memory as it touches it: a machine may start if what it needs at once fits, and if all machines
    together were promised no more than `overcommit` times the host's memory.

    Attributes:
        memory: Available memory that stays free.
        machine: Memory that a machine needs when it starts.
        disk: Free disk space on every file system that holds machines or what they are made from.
        overcommit: Promised memory as a multiple of the host's memory, or of the limit of the server's container.
    """

    memory: int = 512
    machine: int = 192
    disk: int = 1024
    overcommit: float = 1.5

    def check(self, places: Iterable[Path], promised: int, mem: int) -> None:
        """Refuse to start a machine for which the host has too little memory or disk space.

        Args:
            places: The directories it writes to; each may be on a file system of its own.
            promised: MiB of all existing machines.
            mem: MiB of the new machine.

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
                f"mem must be at most {max(0, budget - promised)} MiB ({promised} of {budget} MiB are promised to "
                f"sandboxes), got {mem} MiB",
                hint=_HINT,
            )
        for place in places:
            self.check_disk(place)

    def check_disk(self, place: Path) -> None:
        """Refuse large writes where little disk space is left.

        Args:
            place: The directory; it need not exist yet.

        Raises:
            HostExhausted: The message says how much is free.
        """
        with translate_os_errors("the check for free disk space", place):
            mounted = file_system(place)
            free = shutil.disk_usage(next(step for step in (place, *place.parents) if step.exists())).free // MIB
        if free < self.disk:
            raise HostExhausted(
                f"The host's disk has {free} MiB free on {mounted}; {self.disk} MiB must stay free",
                hint="Free space on the host, or delete sandboxes",
            )


def _check_quota(name: str, used: int, requested: int, maximum: int, unit: str) -> None:
    if used + requested > maximum:
        free = max(0, maximum - used)
        raise LimitExceeded(
            f"{name} must be at most {free}{unit} ({used} of {maximum}{unit} are in use), got {requested}{unit}",
            hint=_HINT,
        )


_HINT = "Delete a sandbox that is no longer needed, or ask the operator for a higher limit"
