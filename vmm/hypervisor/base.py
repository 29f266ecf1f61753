"""The port to a hypervisor: what the rest of the package may ask of one, and the values that go through it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from anyio.abc import ByteStream

from .process import ProcessRef

CONSOLE = "console.log"
"""The guest's serial console while it boots, in the machine's directory."""
LOG = "hypervisor.log"
"""What the hypervisor's process prints, in the machine's directory."""
GUEST_PORT = 1024
"""Where the agent listens, on vsock and TCP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a machine is made of; a saved state loads only into the same.

    Attributes:
        cpu: Virtual CPUs.
        mem: Memory in MiB.
        kernel_elf, kernel_bz: The same kernel as ELF file and as bzImage; each driver takes the one it needs.
        initramfs: First file system, with the machine's first secret appended.
        toolbox, base: Read-only file systems.
        tsc_khz: Frequency that the guest is told its time-stamp counter has; 0 lets it measure.
    """

    cpu: int
    mem: int
    kernel_elf: Path
    kernel_bz: Path
    initramfs: Path
    toolbox: Path
    base: Path
    tsc_khz: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ram:
    """The file behind a machine's memory.

    Attributes:
        path: The file; made if it does not exist.
        private: Map it copy-on-write, so that the file never changes; else the file is the memory.
    """

    path: Path
    private: bool


class Memory(StrEnum):
    """How a machine came by its memory, as shown to users."""

    BOOTED = "booted"
    """It booted: the file is its memory."""
    OWN = "own"
    """A saved file became its memory, and changes with it."""
    MAPPED = "mapped"
    """It maps a saved file copy-on-write: what it did not write to is shared with all others that map it."""
    COPIED = "copied"
    """The hypervisor read all of a saved file, for want of a better way."""

    @property
    def in_file(self) -> bool:
        """Whether a file of its own holds the memory, whatever the machine does."""
        return self in {Memory.BOOTED, Memory.OWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A machine's hypervisor process and the way to its guest.

    Attributes:
        directory: The machine's own; everything about it lies there.
        process: The hypervisor.
        port: TCP port on the host's loopback that leads to the agent; 0 where the driver has a socket file instead.
        memory: How it came by its memory.
    """

    directory: Path
    process: ProcessRef
    port: int
    memory: Memory


Fill = Callable[[], Awaitable[None]]
"""Fills a machine's disk, whose empty file may be there already."""


class Hypervisor(Protocol):
    """A driver. It keeps no state of machines: what it needs is in `Running` and the machine's directory."""

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
        """Whether clones are better off with a copy of the memory than with a map of it; see ADR 13."""
        ...

    @property
    def fingerprint(self) -> str:
        """Everything of program and host that a saved state depends on, for a template's name."""
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

        It runs when this returns; without `run` it stands still until `resume`, and nothing has changed yet. What
        fills the disk is awaited before that is read; a driver may start its program meanwhile.
        """
        ...

    async def save(self, machine: Running, target: Path) -> None:
        """Pause the machine and write its moment into an existing directory: the devices' as `state`.

        Memory in a file of its own stays there, to be copied before the machine goes on; other memory is written, too,
        in whatever form is quickest: `settle` makes `ram` of it. The machine stays paused, even if this fails.
        """
        ...

    async def settle(self, target: Path, hardware: Hardware, *, disk: Path) -> None:
        """Finish what `save` wrote, so that `target` has a `state` and a `ram` to restore from. May take a second.

        The saved machine may have gone on, or ended. A no-op where there is nothing to finish.

        Args:
            target: The directory that was given to `save`.
            hardware: The machine's.
            disk: A disk of the machine's size; it is not opened.
        """
        ...

    async def adopt(self, machine: Running, hardware: Hardware) -> None:
        """Confine a machine that an earlier server started as this one would have."""
        ...

    async def stop(self, machine: Running) -> None:
        """End the machine at once, without asking the guest, and give back what it had of the host. May be repeated."""
        ...

    async def why_killed(self, machine: Running) -> str:
        """Why the host killed the machine, in words for its owner; empty if it did not. To be asked before `stop`."""
        ...

    async def problem(self, machine: Running) -> str:
        """Why a living machine does not run, in words for a user; empty if it runs."""
        ...

    async def resume(self, machine: Running) -> None:
        """Let a stopped or saved machine go on."""
        ...

    async def dial(self, machine: Running) -> ByteStream:
        """Connect to the agent."""
        ...
