"""Driver for QEMU's microvm machine, with KVM where it is usable and by emulation (TCG) everywhere else.

The guest has no network but the control link: QEMU's user network with `restrict=on` and one forwarded port. Without
`restrict=on` a guest reaches the host's loopback, so this driver has no way to leave it out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import anyio
from anyio.abc import ByteStream, SocketAttribute

from ..errors import LinkError, Unavailable
from .base import CONSOLE, GUEST_PORT, LOG, Hardware, Memory, Ram, Running
from .migration import read_in, write_out
from .process import ProcessRef, spawn
from .qmp import QmpError, qmp
from .room import raise_if_full, require
from .startup import ended_on_failure

_SOCKET = "qmp.sock"
_GUEST_ADDRESS = "10.0.2.15/24"
_STATE, _STREAM, _RAM = "state", "stream", "ram"
# The owner of a machine can write to its console without end: keep what fits a ring.
_CONSOLE = ("-chardev", "ringbuf,id=console,size=65536", "-serial", "chardev:console")
_LOADING = ("-incoming", "defer", "-S")
_TRANSLATION_CACHE_MIB = 256


class Qemu:
    """QEMU as a hypervisor.

    Args:
        binary: The program.
        version: What it says of itself; a saved state loads only into the same.
        kvm: Whether to use /dev/kvm.
        cpu_model: The host processor's name: with KVM a state depends on it.
    """

    name = "qemu"

    def __init__(self, binary: str, *, version: str, kvm: bool, cpu_model: str) -> None:
        self._binary = binary
        self._kvm = kvm
        self.accelerator = "kvm" if kvm else "tcg"
        self.version = version
        self.fingerprint = f"qemu {version} {self.accelerator} {cpu_model if kvm else 'max'}"

    async def probe(self) -> None:
        """Check that the program is still there.

        Raises:
            Unavailable: It is not.
        """
        if not os.access(self._binary, os.X_OK):
            raise Unavailable(f"{self._binary} is gone", hint="Run casemate doctor")

    async def start(self, directory: Path, hardware: Hardware, *, ram: Ram, disk: Path) -> Running:
        """Boot a machine from its kernel. Returns as soon as the hypervisor runs; the guest is still booting.

        Raises:
            QmpError: QEMU did not start; the message holds the last line that it printed.
        """
        process = self._spawn(directory, [*self._command(hardware, ram, disk), "-serial", f"file:{CONSOLE}"])
        async with ended_on_failure(process, directory), qmp(directory / _SOCKET, process) as control:
            port = _forwarded_port(await control.run("human-monitor-command", {"command-line": "info usernet"}))
        return Running(directory=directory, process=process, port=port, memory=Memory.BOOTED)

    async def restore(
        self, directory: Path, hardware: Hardware, *, ram: Ram, disk: Path, state: Path, run: bool = True
    ) -> Running:
        """Start a machine from a saved device state and its memory.

        It runs when this returns; without `run` it stands still until `resume`, and nothing has changed yet.

        Raises:
            QmpError: QEMU did not start or could not load the state.
        """
        process = self._spawn(directory, [*self._command(hardware, ram, disk), *_CONSOLE, *_LOADING])
        async with ended_on_failure(process, directory), qmp(directory / _SOCKET, process) as control:
            port = _forwarded_port(await control.run("human-monitor-command", {"command-line": "info usernet"}))
            await read_in(control, state, memory=False)
            if run:
                await control.run("cont")
        memory = Memory.MAPPED if ram.private else Memory.OWN
        return Running(directory=directory, process=process, port=port, memory=memory)

    async def save(self, machine: Running, target: Path) -> None:
        """Pause the machine and write its moment into an existing directory: the devices' as `state`.

        Memory in a file of its own stays there. Other memory is written with the state, as `stream`, which is quick;
        `settle` makes `ram` and `state` of it.

        Raises:
            HostExhausted: The host's disk is full; the machine stays paused.
            QmpError: The state could not be written; the machine stays paused.
        """
        try:
            async with qmp(machine.directory / _SOCKET, machine.process) as control:
                if (await control.run("query-status"))["status"] == "postmigrate":
                    # QEMU saves no machine twice without its having run in between.
                    await control.run("cont")
                await control.run("stop")
                kept = machine.memory.in_file
                await write_out(control, target / (_STATE if kept else _STREAM), memory=not kept)
        except QmpError as error:
            raise_if_full(error, target)
            raise

    async def settle(self, target: Path, hardware: Hardware, *, disk: Path) -> None:
        """Make `ram` and `state` of a `stream`, by a QEMU that loads it, lets nothing run, and saves it again.

        Raises:
            HostExhausted: The host's disk is full; the stream is still there.
            QmpError: It could not be done; the stream is still there.
        """
        stream = anyio.Path(target / _STREAM)
        if not await stream.exists():
            return
        require(target, (await stream.stat()).st_size)
        try:
            await self._convert(target, hardware, disk)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                for name in (_RAM, _STATE):
                    await anyio.Path(target / name).unlink(missing_ok=True)
            if isinstance(error, QmpError):
                raise_if_full(error, target)
            raise
        await stream.unlink()

    async def stop(self, machine: Running) -> None:
        """End the machine at once, without asking the guest. A no-op if it has ended."""
        await machine.process.kill()

    async def ailment(self, machine: Running) -> str:
        """Why a living machine does not run, in words for a user; empty if it runs."""
        try:
            async with qmp(machine.directory / _SOCKET, machine.process) as control:
                status = (await control.run("query-status"))["status"]
        except QmpError as error:
            return error.message
        return _AILMENTS.get(status, f"the machine is in the state {status}")

    async def resume(self, machine: Running) -> None:
        """Let a stopped or saved machine go on.

        Raises:
            QmpError: It cannot, or has ended.
        """
        async with qmp(machine.directory / _SOCKET, machine.process) as control:
            await control.run("cont")

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

    async def _convert(self, target: Path, hardware: Hardware, disk: Path) -> None:
        # The machine may still run and hold its disk: nothing is read from that here, and nothing written.
        command = self._command(hardware, Ram(path=target / _RAM, private=False), disk, locking="file.locking=off")
        process = self._spawn(target, [*command, *_CONSOLE, *_LOADING])
        try:
            async with ended_on_failure(process, target), qmp(target / _SOCKET, process) as control:
                await read_in(control, target / _STREAM, memory=True)
                await write_out(control, target / _STATE, memory=False)
        finally:
            with anyio.CancelScope(shield=True):
                await process.kill()
            for name in (_SOCKET, LOG):
                (target / name).unlink(missing_ok=True)

    def _spawn(self, directory: Path, command: Sequence[str]) -> ProcessRef:
        (directory / _SOCKET).unlink(missing_ok=True)
        return spawn(command, directory=directory, log=directory / LOG)

    def _command(self, hardware: Hardware, ram: Ram, disk: Path, *, locking: str = "file.locking=auto") -> list[str]:
        accel = "kvm" if self._kvm else f"tcg,tb-size={_TRANSLATION_CACHE_MIB}"
        kernel_line = f"console=ttyS0 quiet panic=-1 reboot=t casemate.ip={_GUEST_ADDRESS}"
        if not self._kvm:
            # Emulated CPUs all read the host's counter; the kernel's own test takes their slowness for disagreement,
            # and the clock that it would choose instead loses time on a busy host.
            kernel_line += " no_timer_check tsc=reliable"
        if hardware.tsc_khz:
            # Without it the kernel calibrates against an emulated timer, and on a busy host hangs for ever.
            kernel_line += f" tsc_early_khz={hardware.tsc_khz}"
        share = "off" if ram.private else "on"
        return [
            self._binary,
            *("-machine", "microvm,rtc=on,memory-backend=ram,dump-guest-core=off"),
            *("-accel", accel, "-cpu", "host" if self._kvm else "max"),
            *("-smp", str(hardware.cpu), "-m", str(hardware.mem)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
            *("-object", f"memory-backend-file,id=ram,size={hardware.mem}M,mem-path={_value(ram.path)},share={share}"),
            *("-qmp", f"unix:{_SOCKET},server=on,wait=off"),
            *("-kernel", str(hardware.kernel_elf), "-initrd", str(hardware.initramfs), "-append", kernel_line),
            *_drive("toolbox", hardware.toolbox, "readonly=on"),
            *_drive("base", hardware.base, "readonly=on"),
            # A full host disk stops the machine with nothing lost, instead of breaking its file system.
            *_drive("disk", disk, f"discard=unmap,werror=enospc,{locking}"),
            *("-netdev", f"user,id=link,restrict=on,hostfwd=tcp:127.0.0.1:0-:{GUEST_PORT}"),
            *("-device", "virtio-net-device,netdev=link"),
        ]


def _drive(name: str, path: Path, options: str) -> tuple[str, ...]:
    source = f"id={name},file={_value(path)},format=raw,if=none,{options}"
    return "-drive", source, "-device", f"virtio-blk-device,drive={name}"


def _value(path: Path) -> str:
    # In QEMU's option lists a comma ends a value unless it is doubled.
    return str(path).replace(",", ",,")


def _forwarded_port(usernet: str) -> int:
    for line in usernet.splitlines():
        if "HOST_FORWARD" in line:
            return int(line.split()[3])
    raise QmpError("The hypervisor has no forwarded port to the guest")


_AILMENTS = {
    "running": "",
    "io-error": "the host's disk is full, so the machine was stopped before it could lose a write",
    "paused": "the machine is paused",
    "postmigrate": "the machine is paused: it was saved",
    "shutdown": "the guest shut itself down",
    "guest-panicked": "the guest's kernel crashed",
    "internal-error": "the hypervisor reports an internal error",
}
