"""Chooses the driver by what the host has, and says why: the choice is never silent."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import anyio

from ..errors import Unavailable
from .qemu import Qemu

_BINARY = "qemu-system-x86_64"
_INSTALL = "sudo apt-get install -y qemu-system-x86"
_OLDEST = (7, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kvm:
    """Whether the host's KVM can run an ordinary guest, and why or why not."""

    usable: bool
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The driver for this host and the reason for it."""

    driver: Qemu
    reason: str


def kvm(device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> Kvm:
    """Look at the host's KVM.

    A device that opens is not enough: there are hosts whose /dev/kvm opens and cannot boot an ordinary kernel. The
    processor must show svm (AMD) or vmx (Intel) as well.
    """
    if not device.exists():
        return Kvm(
            usable=False, detail=f"{device} does not exist", fix="sudo modprobe kvm_amd || sudo modprobe kvm_intel"
        )
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return Kvm(
            usable=False, detail=f"no permission to open {device}", fix="sudo usermod -aG kvm $USER, then log in again"
        )
    except OSError as error:
        return Kvm(usable=False, detail=f"{device} does not open: {error.strerror}")
    if not re.search(r"^flags\s*:.*\b(svm|vmx)\b", cpuinfo.read_text(), re.MULTILINE):
        return Kvm(usable=False, detail=f"{device} opens, but the processor shows neither svm nor vmx")
    return Kvm(usable=True, detail=f"{device} opens and the processor has hardware virtualisation")


async def qemu_version(binary: str) -> str:
    """Ask a QEMU binary for its version, such as `7.2.22`.

    Raises:
        Unavailable: It does not run, does not say, or is too old.
    """
    try:
        with anyio.fail_after(20):
            done = await anyio.run_process([binary, "--version"], check=False)
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"{binary} does not run: {error}", hint=f"Install it: {_INSTALL}") from error
    match = re.search(rb"version (\d+)\.(\d+)\.(\d+)", done.stdout)
    if match is None:
        raise Unavailable(f"{binary} --version says nothing of a version", hint=f"Install it: {_INSTALL}")
    if (int(match[1]), int(match[2])) < _OLDEST:
        raise Unavailable(f"{binary} is version {match[0].decode()}, older than 7.2", hint=f"Update it: {_INSTALL}")
    return b".".join(match.groups()).decode()


async def choose() -> Choice:
    """Choose the driver.

    Raises:
        Unavailable: There is no hypervisor on this host; the hint is the command that installs one.
    """
    binary = shutil.which(_BINARY)
    if binary is None:
        raise Unavailable(f"{_BINARY} is not on PATH", hint=f"Install it: {_INSTALL}")
    version = await qemu_version(binary)
    state = kvm()
    driver = Qemu(binary, version=version, kvm=state.usable, cpu_model=_cpu_model())
    how = "hardware virtualisation" if state.usable else "emulation (slower; any host)"
    return Choice(driver=driver, reason=f"QEMU {version} with {how}: {state.detail}")


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else "unknown"
