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
from .base import CONSOLE, GUEST_PORT, LOG, Hardware, Ram, Running
from .process import ProcessRef, spawn
from .qmp import QmpError, qmp
from .startup import ended_on_failure

_SOCKET = "qmp.sock"
_GUEST_ADDRESS = "10.0.2.15/24"
_STATE = "state"
_POLL_S = 0.001
_STATE_DEADLINE_S = 60
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
        return Running(directory=directory, process=process, port=port)

    async def restore(self, directory: Path, hardware: Hardware, *, ram: Ram, disk: Path, state: Path) -> Running:
        """Start a machine from a saved device state and its memory; it runs when this returns.

        Raises:
            QmpError: QEMU did not start or could not load the state.
        """
        # The owner of a machine can write to its console without end: keep what fits a ring.
        console = ("-chardev", "ringbuf,id=console,size=65536", "-serial", "chardev:console")
        process = self._spawn(directory, [*self._command(hardware, ram, disk), *console, "-incoming", "defer"])
        async with ended_on_failure(process, directory), qmp(directory / _SOCKET, process) as control:
            await control.run("migrate-set-capabilities", _RAM_STAYS)
            port = _forwarded_port(await control.run("human-monitor-command", {"command-line": "info usernet"}))
            await control.pass_file(_STATE, state, os.O_RDONLY)
            await control.run("migrate-incoming", {"uri": f"fd:{_STATE}"})
            with anyio.move_on_after(_STATE_DEADLINE_S) as limit:
                while (await control.run("query-status"))["status"] == "inmigrate":
                    await anyio.sleep(_POLL_S)
            if limit.cancelled_caught:
                raise QmpError(f"The hypervisor did not load the state within {_STATE_DEADLINE_S} s")
            await control.run("cont")
        return Running(directory=directory, process=process, port=port)

    async def save(self, machine: Running, state: Path) -> None:
        """Pause the machine and write its device state; its memory stays in its (shared) file.

        Raises:
            QmpError: The state could not be written; the machine stays paused.
        """
        async with qmp(machine.directory / _SOCKET, machine.process) as control:
            await control.run("migrate-set-capabilities", _RAM_STAYS)
            await control.run("stop")
            await control.pass_file(_STATE, state, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            await control.run("migrate", {"uri": f"fd:{_STATE}"})
            with anyio.fail_after(_STATE_DEADLINE_S):
                while (status := (await control.run("query-migrate")).get("status")) not in {"completed", "failed"}:
                    await anyio.sleep(_POLL_S)
        if status == "failed":
            raise QmpError("The hypervisor could not save the machine's state")

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
        """Let a stopped machine go on."""
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

    def _spawn(self, directory: Path, command: Sequence[str]) -> ProcessRef:
        (directory / _SOCKET).unlink(missing_ok=True)
        return spawn(command, directory=directory, log=directory / LOG)

    def _command(self, hardware: Hardware, ram: Ram, disk: Path) -> list[str]:
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
            *_drive("disk", disk, "discard=unmap,werror=enospc"),
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


_RAM_STAYS = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
_AILMENTS = {
    "running": "",
    "io-error": "the host's disk is full, so the machine was stopped before it could lose a write",
    "paused": "the machine is paused",
    "shutdown": "the guest shut itself down",
    "guest-panicked": "the guest's kernel crashed",
    "internal-error": "the hypervisor reports an internal error",
}
