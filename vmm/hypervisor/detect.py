"""Chooses the driver for this host, and says why."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import anyio

from ..errors import Unavailable
from .cloud_hypervisor import CloudHypervisor
from .confinement import UNCONFINED, Confinement
from .nic import Nics
from .qemu import Qemu

_BINARY = "qemu-system-x86_64"
_INSTALL = "sudo apt-get install -y qemu-system-x86"
_OLDEST = (7, 2)
BINARY_VARIABLE = "CLOUD_HYPERVISOR_BIN"
_OLDEST_CLOUD_HYPERVISOR = 51
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ASK_VERSION = 1
# With older versions the program refuses to start a machine, because it also restricts truncation (Linux 6.2).
_LANDLOCK_NEEDED = 3
_GET_CLOUD_HYPERVISOR = (
    "Get the static program from the releases page of the project cloud-hypervisor, v51 or later, as "
    "/usr/local/bin/cloud-hypervisor"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kvm:
    """Whether the host's KVM can run an ordinary guest, and why or why not."""

    usable: bool
    detail: str
    fix: str = ""


Driver = CloudHypervisor | Qemu


@dataclass(frozen=True, slots=True, kw_only=True)
class NoDriver:
    """Why a driver cannot be used on this host, and how to change that."""

    reason: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The driver for this host and the reason for it."""

    driver: Driver
    reason: str


def kvm(device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> Kvm:
    """Check the host's KVM.

    A device that opens is not enough: on some hosts /dev/kvm opens but cannot boot an ordinary kernel. The processor
    must also have the flag svm (AMD) or vmx (Intel).
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
        return Kvm(usable=False, detail=f"{device} opens, but the processor has neither svm nor vmx")
    return Kvm(usable=True, detail=f"{device} opens and the processor has hardware virtualisation")


async def qemu_version(binary: str) -> str:
    """Ask a QEMU binary for its version, such as `7.2.22`.

    Raises:
        Unavailable: It does not run, does not print a version, or is too old.
    """
    hint = f"Install it: {_INSTALL}"
    version = await _version(binary, rb"version (\d+)\.(\d+)\.(\d+)", hint)
    if version[:2] < _OLDEST:
        raise Unavailable(
            f"{binary} must be version 7.2 or later, got {_dotted(version)}", hint=f"Update it: {_INSTALL}"
        )
    return _dotted(version)


async def cloud_hypervisor_version(binary: str) -> str:
    """Ask a cloud-hypervisor binary for its version, such as `53.0`.

    Raises:
        Unavailable: It does not run, does not print a version, or is too old.
    """
    version = await _version(binary, rb"cloud-hypervisor v(\d+)\.(\d+)", _GET_CLOUD_HYPERVISOR)
    if version[0] < _OLDEST_CLOUD_HYPERVISOR:
        raise Unavailable(
            f"{binary} must be version {_OLDEST_CLOUD_HYPERVISOR} or later, got {_dotted(version)}",
            hint=_GET_CLOUD_HYPERVISOR,
        )
    return _dotted(version)


async def drivers(confinement: Confinement = UNCONFINED, nics: Nics | None = None) -> dict[str, Driver | NoDriver]:
    """Return each driver by its name, or why this host cannot run it; the preferred one first."""
    state = kvm()
    return {
        "cloud-hypervisor": await cloud_hypervisor(state, confinement, nics),
        "qemu": await _qemu(state, confinement, nics),
    }


async def choose(confinement: Confinement = UNCONFINED, nics: Nics | None = None) -> Choice:
    """Choose the driver: cloud-hypervisor if KVM and the program are available, otherwise QEMU.

    Args:
        confinement: Confines the driver's processes.
        nics: Gives machines their network devices; None: they have none.

    Raises:
        Unavailable: This host has no hypervisor; the hint is the command that installs one.
    """
    state = kvm()
    preferred = await cloud_hypervisor(state, confinement, nics)
    if isinstance(preferred, NoDriver):
        driver = await _qemu(state, confinement, nics)
        if isinstance(driver, NoDriver):
            raise Unavailable(driver.reason, hint=driver.fix)
        how = "hardware virtualisation" if state.usable else "emulation (slower; any host)"
        return Choice(driver=driver, reason=f"QEMU {driver.version} with {how}: {state.detail}")
    return Choice(
        driver=preferred, reason=f"cloud-hypervisor {preferred.version} with hardware virtualisation: {state.detail}"
    )


async def cloud_hypervisor(
    state: Kvm, confinement: Confinement = UNCONFINED, nics: Nics | None = None
) -> CloudHypervisor | NoDriver:
    """Return the production driver, or why this host cannot run it."""
    named = os.environ.get(BINARY_VARIABLE, "")
    binary = shutil.which(named or "cloud-hypervisor")
    if binary is None:
        missing = f"{BINARY_VARIABLE}={named} is not a program" if named else "cloud-hypervisor is not on PATH"
        return NoDriver(reason=missing, fix=_GET_CLOUD_HYPERVISOR)
    if not state.usable:
        return NoDriver(reason=f"cloud-hypervisor needs KVM: {state.detail}", fix=state.fix)
    try:
        version = await cloud_hypervisor_version(binary)
    except Unavailable as error:
        return NoDriver(reason=error.message, fix=error.hint)
    return CloudHypervisor(
        binary,
        version=version,
        cpu_model=_cpu_model(),
        landlock=landlock_abi() >= _LANDLOCK_NEEDED,
        confinement=confinement,
        nics=nics,
    )


async def _qemu(state: Kvm, confinement: Confinement, nics: Nics | None) -> Qemu | NoDriver:
    binary = shutil.which(_BINARY)
    if binary is None:
        return NoDriver(reason=f"{_BINARY} is not on PATH", fix=f"Install it: {_INSTALL}")
    try:
        version = await qemu_version(binary)
    except Unavailable as error:
        return NoDriver(reason=error.message, fix=error.hint)
    return Qemu(binary, version=version, kvm=state.usable, cpu_model=_cpu_model(), confinement=confinement, nics=nics)


async def _version(binary: str, pattern: bytes, hint: str) -> tuple[int, ...]:
    try:
        with anyio.fail_after(20):
            done = await anyio.run_process([binary, "--version"], check=False)
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"{binary} does not run: {error}", hint=hint) from error
    match = re.search(pattern, done.stdout)
    if match is None:
        raise Unavailable(f"{binary} --version does not print a version", hint=hint)
    return tuple(int(number) for number in match.groups())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)


def landlock_abi() -> int:
    """Return the version of Landlock that the kernel supports; 0 if none (Linux 5.13 has 1)."""
    return max(0, ctypes.CDLL(None).syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_ASK_VERSION))


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else "unknown"
