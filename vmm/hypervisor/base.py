"""The interface of a hypervisor: what the rest of the package may call, and the values it passes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from anyio.abc import ByteStream

from .nic import Nic, Nics
from .process import ProcessRef
from .volume_disk import VolumeDisk

CONSOLE = "console.log"
"""The guest's serial console while it boots, in the machine's directory."""
LOG = "hypervisor.log"
"""What the hypervisor process prints, in the machine's directory."""
GUEST_PORT = 1024
"""The port on which the agent listens, on vsock and TCP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The parts of a machine; a saved state loads only into the same ones.

    Attributes:
        cpu: Virtual CPUs.
        mem: Memory in MiB.
        kernel_elf, kernel_bz: The same kernel as ELF file and as bzImage; each driver takes the one it needs.
        initramfs: First file system, with the machine's first secret appended.
        toolbox, base: Read-only file systems.
        tsc_khz: Frequency of the time-stamp counter, for the guest's kernel; 0 lets it measure.
        nic: Whether it has a network device besides the link.
        takes_nic: Whether the agent in its toolbox can be given one; the agents of earlier releases cannot.
        volumes: Whether volumes can be attached to it; machines of earlier releases lack the bus, and the agent.
    """

    cpu: int
    mem: int
    kernel_elf: Path
    kernel_bz: Path
    initramfs: Path
    toolbox: Path
    base: Path
    tsc_khz: int = 0
    nic: bool = False
    takes_nic: bool = False
    volumes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ram:
    """The file behind a machine's memory.

    Attributes:
        path: The file; created if it does not exist.
        private: Map it copy-on-write, so that the file never changes; otherwise the file is the memory.
    """

    path: Path
    private: bool


class Memory(StrEnum):
    """How a machine got its memory, as shown to users."""

    BOOTED = "booted"
    """It booted: the file is its memory."""
    OWN = "own"
    """A saved file became its memory and changes with it."""
    MAPPED = "mapped"
    """It maps a saved file copy-on-write: all machines that map it share the pages that they have not written to."""
    COPIED = "copied"
    """The hypervisor read all of a saved file, because it cannot map it."""

    @property
    def in_file(self) -> bool:
        """Whether the memory is in the machine's own file, which changes with it."""
        return self in {Memory.BOOTED, Memory.OWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A machine's hypervisor process and how to reach its guest.

    Attributes:
        directory: The machine's directory, with everything about it.
        process: The hypervisor.
        port: TCP port on the host's loopback that leads to the agent; 0 if the driver has a socket file instead.
        memory: How it got its memory.
        nic: Its network device as the guest is told; None if it has none, or one that leads nowhere.
    """

    directory: Path
    process: ProcessRef
    port: int
    memory: Memory
    nic: Nic | None = None


Fill = Callable[[], Awaitable[None]]
"""Fills a machine's disk, whose empty file may already exist."""


class Hypervisor(Protocol):
    """A driver. It has no state about machines: everything is in `Running` and the machine's directory.

    Attributes:
        nics: Makes the taps of machines whose hardware has a network device; None if the server makes none. Such a
            machine then gets a device that leads nowhere, or is refused.
    """

    nics: Nics | None

    @property
    def name(self) -> str:
        """The driver's name, as shown to users: `qemu`."""
        ...

    @property
    def accelerator(self) -> str:
        """`kvm` or `tcg`."""
        ...

    @property
    def own_memory(self) -> bool:
        """Whether clones work better with a copy of the memory than with a mapping; see ADR 13."""
        ...

    @property
    def fingerprint(self) -> str:
        """All properties of program and host that a saved state depends on, for a template's name."""
        ...

    async def probe(self) -> None:
        """Raise `Unavailable` if the driver cannot start machines at the moment."""
        ...

    async def start(self, directory: Path, hardware: Hardware, *, ram: Ram, disk: Path) -> Running:
        """Boot a machine from its kernel. Returns as soon as the hypervisor runs; the guest is still booting."""
        ...

    async def restore(
        self,
        directory: Path,
        hardware: Hardware,
        *,
        ram: Ram,
        disk: Path,
        state: Path,
        fill: Fill | None = None,
        run: bool = True,
    ) -> Running:
        """Start a machine from a saved device state and its memory.

        It runs when this returns; without `run` it is paused until `resume`, and nothing has changed yet. The disk is
        filled before it is read; a driver may start its program in the meantime.
        """
        ...

    async def save(self, machine: Running, target: Path) -> None:
        """Pause the machine and save it into an existing directory: the devices as `state`.

        Memory in the machine's own file stays there; copy it before the machine resumes. Other memory is written in
        the fastest format, and `settle` makes `ram` from it. The machine stays paused, even if this fails.
        """
        ...

    async def settle(self, target: Path, hardware: Hardware, *, disk: Path) -> None:
        """Finish what `save` wrote, so that `target` has a `state` and a `ram` to restore from. May take a second.

        The saved machine may have been resumed, or have ended. A no-op if there is nothing to finish.

        Args:
            target: The directory that was given to `save`.
            hardware: The machine's hardware.
            disk: A disk of the machine's size; it is not opened.
        """
        ...

    async def adopt(self, machine: Running, hardware: Hardware) -> None:
        """Apply this server's limits to a machine that an earlier server started.

        Raises:
            Conflict: This server has no tap for its network device, or its address is of another network; nothing has
                changed. Without the device, `Running.nic`, it can be adopted.
        """
        ...

    async def stop(self, machine: Running) -> None:
        """End the machine at once, without asking the guest, and free its resources on the host. May be repeated."""
        ...

    async def why_killed(self, machine: Running) -> str:
        """Explain to the owner why the host killed the machine; empty if it did not. Call it before `stop`."""
        ...

    async def problem(self, machine: Running) -> str:
        """Explain to a user why a machine that has not ended is paused; empty if it runs."""
        ...

    async def resume(self, machine: Running) -> None:
        """Resume a paused or saved machine."""
        ...

    async def plug(self, machine: Running, disk: VolumeDisk) -> None:
        """Add a volume's disk to a machine with `Hardware.volumes`; the guest notices it a moment later."""
        ...

    async def unplug(self, machine: Running, serial: str) -> None:
        """Remove a volume's disk, and wait until its file is closed. May be repeated.

        The guest must not have it mounted any more.
        """
        ...

    async def plugged(self, machine: Running) -> frozenset[str]:
        """Return the serial numbers of the volumes' disks that a machine has."""
        ...

    async def dial(self, machine: Running) -> ByteStream:
        """Connect to the agent."""
        ...
