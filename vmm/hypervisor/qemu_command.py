"""The command line of QEMU's microvm machine.

The control link is QEMU's user network with `restrict=on` and one forwarded port. Without `restrict=on` a guest reaches
the host's loopback, so this is not optional. Besides it a guest may have a tap, whose descriptor the program gets.
"""

from __future__ import annotations

from pathlib import Path

from .base import CONSOLE, GUEST_PORT, Hardware, Ram
from .nic import BOOT_MAC
from .spawn import CONTROL
from .startup import named

QMP_SOCKET = "qmp.sock"
"""The control socket, in the directory that QEMU works in; the server creates it."""
VOLUME_BUS = "volumes"
"""The SCSI controller for volumes."""
BOOTING = ("-serial", f"file:{CONSOLE}")
"""More options of a machine that boots."""
# A sandbox's user can write to the console endlessly, so only a ring buffer of it is kept.
LOADING = ("-chardev", "ringbuf,id=console,size=65536", "-serial", "chardev:console", "-incoming", "defer", "-S")
"""More options of a machine that loads a state, and stays paused until it is resumed."""

_GUEST_ADDRESS = "10.0.2.15/24"
_TRANSLATION_CACHE_MIB = 256


def command_line(
    binary: str, directory: Path, hardware: Hardware, ram: Ram, disk: Path, *, kvm: bool, tap: int | None = None
) -> list[str]:
    """Make the command line that starts a machine.

    Args:
        binary: The program.
        directory: Its working directory; files are named relative to it.
        hardware: The parts of the machine.
        ram: Its memory's file.
        disk: Its writable disk.
        kvm: Whether it runs on KVM.
        tap: The descriptor that its network device is connected to; None if it has no device besides the link.
    """

    def at(path: Path) -> str:
        # In QEMU's option lists, a comma ends a value unless it is doubled.
        return named(path, directory).replace(",", ",,")

    def drive(name: str, path: Path, options: str) -> tuple[str, ...]:
        source = f"id={name},file={at(path)},format=raw,if=none,{options}"
        return "-drive", source, "-device", f"virtio-blk-device,drive={name}"

    accel = "kvm" if kvm else f"tcg,tb-size={_TRANSLATION_CACHE_MIB}"
    kernel_line = f"console=ttyS0 quiet panic=-1 reboot=t casemate.ip={_GUEST_ADDRESS}"
    if not kvm:
        # Emulated CPUs all read the host's counter, but so slowly that the kernel's test considers it unstable;
        # the clock that the kernel would use instead loses time on a busy host.
        kernel_line += " no_timer_check tsc=reliable"
    if hardware.tsc_khz:
        # Without it the kernel calibrates against an emulated timer, and hangs on a busy host.
        kernel_line += f" tsc_early_khz={hardware.tsc_khz}"
    share = "off" if ram.private else "on"
    kernel, initramfs = named(hardware.kernel_elf, directory), named(hardware.initramfs, directory)
    return [
        binary,
        *("-machine", "microvm,rtc=on,memory-backend=ram,dump-guest-core=off"),
        *("-accel", accel, "-cpu", "host" if kvm else "max"),
        *("-smp", str(hardware.cpu), "-m", str(hardware.mem)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-object", f"memory-backend-file,id=ram,size={hardware.mem}M,mem-path={at(ram.path)},share={share}"),
        *("-chardev", f"socket,id=control,fd={CONTROL},server=on,wait=off", "-mon", "chardev=control,mode=control"),
        *("-kernel", kernel, "-initrd", initramfs, "-append", kernel_line),
        *drive("toolbox", hardware.toolbox, "readonly=on"),
        *drive("base", hardware.base, "readonly=on"),
        # If the host's disk is full, pause the machine, instead of failing writes and damaging its file system.
        *drive("disk", disk, "discard=unmap,werror=enospc"),
        # A bus to which disks can be added while the machine runs; the machine has no other.
        *(("-device", f"virtio-scsi-device,id={VOLUME_BUS}") if hardware.volumes else ()),
        *("-netdev", f"user,id=link,restrict=on,hostfwd=tcp:127.0.0.1:0-:{GUEST_PORT}"),
        *("-device", "virtio-net-device,netdev=link"),
        *(() if tap is None else _network(tap)),
    ]


def _network(tap: int) -> tuple[str, ...]:
    # vhost would be opened by QEMU, which may not.
    return (
        *("-netdev", f"tap,id=net,fd={tap},vhost=off"),
        *("-device", f"virtio-net-device,netdev=net,mac={BOOT_MAC}"),
    )
