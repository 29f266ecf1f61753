"""Driver for QEMU's microvm machine, with KVM where it works and by emulation (TCG) everywhere else.

Memory is always a file. A save leaves it there if the file is the machine's own. A clone maps a saved file privately;
its memory is saved as a stream together with the devices, which `settle` turns into a memory file and a state.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
from anyio.abc import ByteStream, SocketAttribute

from ..errors import LinkError, Unavailable
from . import qemu_volumes
from .base import CONSOLE, LOG, Fill, Hardware, Memory, Ram, Running
from .cgroup import Limits
from .confinement import UNCONFINED, Confinement
from .disk_space import raise_if_full, require
from .migration import cancel, read_in, write_out
from .nic import Nics
from .process import ProcessRef
from .qemu_command import BOOTING, LOADING, QMP_SOCKET, command_line
from .qmp import Qmp, QmpError, qmp
from .startup import START_S, ended_on_failure, link
from .volume_disk import VolumeDisk
from .wire import adopt_wire, release_wire, wired

_STATE, _STREAM, _RAM, _DISK = "state", "stream", "ram", "disk"
_OWN_TCG_MIB, _OWN_KVM_MIB = 512, 192
# Older versions open a memory file for writing even if they map it privately.
_READS_PRIVATE = (8, 2)


class Qemu:
    """QEMU as a hypervisor.

    Args:
        binary: The program.
        version: Its version; a saved state loads only into the same one.
        kvm: Whether to use /dev/kvm.
        cpu_model: The host processor's name: with KVM a state depends on it.
        confinement: Confines its processes.
        nics: Makes the taps of its machines; may be set later.
        start_s: Seconds until the program must answer.
    """

    name = "qemu"
    own_memory = True

    def __init__(
        self,
        binary: str,
        *,
        version: str,
        kvm: bool,
        cpu_model: str,
        confinement: Confinement = UNCONFINED,
        nics: Nics | None = None,
        start_s: float = START_S,
    ) -> None:
        self.nics = nics
        self._binary = binary
        self._confinement = confinement
        self._start_s = start_s
        self._kvm = kvm
        self.accelerator = "kvm" if kvm else "tcg"
        self.version = version
        self._reads_private = tuple(int(part) for part in version.split(".")[:2]) >= _READS_PRIVATE
        self.fingerprint = f"qemu {version} {self.accelerator} {cpu_model if kvm else 'max'}"

    async def probe(self) -> None:
        """Check that the program still exists.

        Raises:
            Unavailable: It does not.
        """
        if not os.access(self._binary, os.X_OK):
            raise Unavailable(f"{self._binary} no longer exists", hint="Run casemate doctor")

    async def start(self, directory: Path, hardware: Hardware, *, ram: Ram, disk: Path) -> Running:
        """Boot a machine from its kernel. Returns as soon as the hypervisor runs; the guest is still booting.

        Raises:
            QmpError: QEMU did not start, or has another version; the message holds the last line that it printed.
            Conflict: Its network device cannot be made.
        """
        async with wired(self.nics, directory, hardware) as (nic, tap):
            process = await self._spawn(directory, hardware, ram, disk, BOOTING, tap=tap, writes=(directory / CONSOLE,))
            async with self._started(directory, process) as control:
                port = _forwarded_port(await control.run("human-monitor-command", {"command-line": "info usernet"}))
        return Running(directory=directory, process=process, port=port, memory=Memory.BOOTED, nic=nic)

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
        filled first, because QEMU opens it when it starts.

        Raises:
            QmpError: QEMU did not start or could not load the state.
            Conflict: Its network device cannot be made.
        """
        if fill is not None:
            await fill()
        async with wired(self.nics, directory, hardware) as (nic, tap):
            process = await self._spawn(directory, hardware, ram, disk, LOADING, tap=tap)
            async with self._started(directory, process) as control:
                port = _forwarded_port(await control.run("human-monitor-command", {"command-line": "info usernet"}))
                await read_in(control, state, memory=False)
                if run:
                    await control.run("cont")
        memory = Memory.MAPPED if ram.private else Memory.OWN
        return Running(directory=directory, process=process, port=port, memory=memory, nic=nic)

    async def save(self, machine: Running, target: Path) -> None:
        """Pause the machine and save it into an existing directory: the devices as `state`.

        Memory in the machine's own file stays there. Other memory is written with the state, as `stream`, which is
        fast; `settle` makes `ram` and `state` from it.

        Raises:
            HostExhausted: The host's disk is full; the machine stays paused.
            QmpError: The state could not be written; the machine stays paused.
        """
        try:
            async with qmp(machine.directory / QMP_SOCKET) as control:
                if (await control.run("query-status"))["status"] == "postmigrate":
                    # QEMU cannot save a machine twice unless it has run in between.
                    await control.run("cont")
                await control.run("stop")
                kept = machine.memory.in_file
                await write_out(control, target / (_STATE if kept else _STREAM), memory=not kept)
        except QmpError as error:
            raise_if_full(error, target)
            raise

    async def settle(self, target: Path, hardware: Hardware, *, disk: Path) -> None:
        """Make `ram` and `state` from a `stream`, with a QEMU that loads it and saves it again without running it.

        Raises:
            HostExhausted: The host's disk is full; the stream is still there.
            QmpError: It failed; the stream is still there.
            Conflict: The saved network device loads only with a tap, which the server may not make.
        """
        stream = anyio.Path(target / _STREAM)
        if not await stream.exists():
            return
        # A separate QEMU gets its own directory, which contains nothing valuable.
        place = target / f"settling-{secrets.token_hex(4)}"
        try:
            require(target, (await stream.stat()).st_size)
            size = (await anyio.Path(disk).stat()).st_size
            linked = await anyio.to_thread.run_sync(_set_up, place, hardware, size)
            await self._convert(place, linked, target)
            await anyio.Path(place / _RAM).rename(target / _RAM)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                if isinstance(error, QmpError):
                    raise_if_full(error, target)
                await anyio.Path(target / _STATE).unlink(missing_ok=True)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(place, ignore_errors=True))
        await stream.unlink()

    async def adopt(self, machine: Running, hardware: Hardware) -> None:
        """Apply this server's limits to a machine that an earlier server started.

        Raises:
            Conflict: This server has no tap for it, or its address is of another network.
        """
        await adopt_wire(self.nics, machine)
        await self._confinement.adopt(machine.process, machine.directory, self._limits(hardware))

    async def stop(self, machine: Running) -> None:
        """End the machine at once, without asking the guest, and free its resources on the host. May be repeated."""
        await machine.process.kill()
        await anyio.Path(machine.directory / QMP_SOCKET).unlink(missing_ok=True)
        await self._confinement.release(machine.directory)
        await release_wire(self.nics, machine.directory)

    async def why_killed(self, machine: Running) -> str:
        """Explain to the owner why the host killed the machine; empty if it did not. Call it before `stop`."""
        return await self._confinement.why_killed(machine.directory)

    async def problem(self, machine: Running) -> str:
        """Explain to a user why a machine that has not ended is paused; empty if it runs."""
        try:
            async with qmp(machine.directory / QMP_SOCKET) as control:
                status = (await control.run("query-status"))["status"]
        except QmpError as error:
            return error.message
        return _PROBLEMS.get(status, f"the machine is in the state {status}")

    async def resume(self, machine: Running) -> None:
        """Resume a paused or saved machine.

        Raises:
            QmpError: It cannot, or has ended.
        """
        async with qmp(machine.directory / QMP_SOCKET) as control:
            await cancel(control)
            await control.run("cont")

    async def plug(self, machine: Running, disk: VolumeDisk) -> None:
        """Add a volume's disk to a machine that has the bus for it; the guest notices it a moment later.

        Raises:
            QmpError: QEMU refused it, or has ended.
        """
        async with qmp(machine.directory / QMP_SOCKET) as control:
            await qemu_volumes.plug(control, disk)

    async def unplug(self, machine: Running, serial: str) -> None:
        """Remove a volume's disk, even from a guest that hangs, and wait until its file is closed. May be repeated.

        Raises:
            QmpError: QEMU does not let go of it, or has ended.
        """
        async with qmp(machine.directory / QMP_SOCKET) as control:
            await qemu_volumes.unplug(control, serial)

    async def plugged(self, machine: Running) -> frozenset[str]:
        """Return the serial numbers of the volumes' disks that a machine has.

        Raises:
            QmpError: QEMU has ended.
        """
        async with qmp(machine.directory / QMP_SOCKET) as control:
            return await qemu_volumes.plugged(control)

    async def dial(self, machine: Running) -> ByteStream:
        """Connect to the agent through the forwarded port.

        Raises:
            LinkError: Nothing listens there: the hypervisor has ended.
        """
        try:
            stream = await anyio.connect_tcp("127.0.0.1", machine.port)
        except OSError as error:
            raise LinkError("The sandbox's control port is closed: its virtual machine has ended") from error
        stream.extra(SocketAttribute.raw_socket).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream

    async def _convert(self, place: Path, hardware: Hardware, target: Path) -> None:
        ram = Ram(path=place / _RAM, private=False)
        # It never runs, so that it needs no address.
        async with wired(None, place, hardware) as (_, tap):
            process = await self._spawn(place, hardware, ram, place / _DISK, LOADING, tap=tap)
            async with self._started(place, process) as control:
                await read_in(control, target / _STREAM, memory=True)
                await write_out(control, target / _STATE, memory=False)
        with anyio.CancelScope(shield=True):
            await process.kill()
            await self._confinement.release(place)

    async def _spawn(
        self,
        directory: Path,
        hardware: Hardware,
        ram: Ram,
        disk: Path,
        options: Sequence[str],
        *,
        tap: int | None,
        writes: tuple[Path, ...] = (),
    ) -> ProcessRef:
        parts = (hardware.kernel_elf, hardware.initramfs, hardware.toolbox, hardware.base)
        return await self._confinement.spawn(
            [*command_line(self._binary, directory, hardware, ram, disk, kvm=self._kvm, tap=tap), *options],
            directory=directory,
            log=directory / LOG,
            limits=self._limits(hardware),
            control=directory / QMP_SOCKET,
            tap=tap,
            reads=(*parts, *((ram.path,) if ram.private and self._reads_private else ())),
            writes=(disk, *(() if ram.private and self._reads_private else (ram.path,)), *writes),
        )

    @asynccontextmanager
    async def _started(self, directory: Path, process: ProcessRef) -> AsyncGenerator[Qmp]:
        async with (
            ended_on_failure(process, directory, self._confinement),
            qmp(directory / QMP_SOCKET, deadline_s=self._start_s) as control,
        ):
            if control.version not in {"", self.version}:
                raise QmpError(
                    f"The hypervisor's version must be {self.version}, as at server start, got {control.version}",
                    hint="Restart the server, which then builds new templates",
                )
            yield control

    def _limits(self, hardware: Hardware) -> Limits:
        own = _OWN_KVM_MIB if self._kvm else _OWN_TCG_MIB
        return Limits.of(mem_mib=hardware.mem, own_mib=own, cpus=hardware.cpu)


def _set_up(place: Path, hardware: Hardware, disk_size: int) -> Hardware:
    """Link a machine's parts, and make an empty disk of the right size, because the machine will not run."""
    place.mkdir(mode=0o700)
    linked: dict[str, Path] = {}
    for name in ("kernel_elf", "initramfs", "toolbox", "base"):
        part: Path = getattr(hardware, name)
        linked[name] = place / name
        link(part, linked[name])
    with (place / _DISK).open("xb") as disk:
        disk.truncate(disk_size)
    return replace(hardware, **linked)


def _forwarded_port(usernet: str) -> int:
    for line in usernet.splitlines():
        if "HOST_FORWARD" in line:
            return int(line.split()[3])
    raise QmpError("The hypervisor has no forwarded port to the guest")


_PROBLEMS = {
    "running": "",
    "io-error": "the host's disk is full, so the machine was paused before it could lose a write",
    "paused": "the machine is paused",
    "postmigrate": "the machine is paused: it was saved",
    "shutdown": "the guest shut itself down",
    "guest-panicked": "the guest's kernel crashed",
    "internal-error": "the hypervisor reports an internal error",
}
