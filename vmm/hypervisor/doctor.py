"""Examines a host: what Casemate needs there, what is missing, and the command that fixes it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import Unavailable
from . import detect
from .cgroup import NoCgroups
from .confinement import Confinement
from .users import NoUsers

_GIB = 1024**3
_DISK_NEEDED = 6 * _GIB
_MEMORY_NEEDED = 2 * _GIB
_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "mkfs.erofs": "erofs-utils",
    "busybox": "busybox-static",
    "dpkg-deb": "dpkg",
    "lz4": "lz4",
}
_TOOLS_OF_A_USER = {"newuidmap": "uidmap"}
_ADMIN_PATH = "/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One requirement of the host.

    Attributes:
        name: What was examined.
        ok: Whether the requirement is met.
        required: Whether Casemate cannot work without it.
        detail: What was found.
        fix: The command or step that fixes it; empty if nothing needs fixing.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = True


async def examine(data: Path) -> tuple[Finding, ...]:
    """Examine everything that a server with this data directory needs. Changes nothing."""
    host = (_processor(), await _hypervisor(), _kvm(), await _production(), *_confinement())
    return (*host, *_tools(), _directory(data), _disk(data), _memory())


def _processor() -> Finding:
    machine = platform.machine()
    fix = "" if machine == "x86_64" else "Run Casemate on an x86_64 host"
    return Finding(name="processor", ok=not fix, detail=f"{machine}, {os.cpu_count()} CPUs", fix=fix)


async def _hypervisor() -> Finding:
    try:
        choice = await detect.choose()
    except Unavailable as error:
        return Finding(name="hypervisor", ok=False, detail=error.message, fix=error.hint.removeprefix("Install it: "))
    return Finding(name="hypervisor", ok=True, detail=choice.reason)


def _kvm() -> Finding:
    state = detect.kvm()
    return Finding(name="kvm", ok=state.usable, detail=state.detail, fix=state.fix, required=False)


async def _production() -> Finding:
    name = detect.CloudHypervisor.name
    driver = await detect.cloud_hypervisor(detect.kvm())
    if isinstance(driver, detect.NoDriver):
        return Finding(name=name, ok=False, detail=driver.reason, fix=driver.fix, required=False)
    confined = "confined by Landlock" if driver.landlock else "without Landlock, which needs Linux 6.2 or later"
    return Finding(name=name, ok=True, detail=f"version {driver.version}, {confined}", required=False)


def _confinement() -> tuple[Finding, Finding]:
    found = Confinement.find(kvm=detect.kvm().usable)
    limited, users = found.cgroups, found.users
    if isinstance(limited, NoCgroups):
        cgroups = _recommended("cgroups", f"machines have no limits of their own: {limited.reason}", limited.fix)
    else:
        detail = f"each machine has limits on {', '.join(limited.controllers)}, below {limited.base}"
        cgroups = Finding(name="cgroups", ok=True, detail=detail, required=False)
    if isinstance(users, NoUsers):
        return cgroups, _recommended("own users", users.reason, users.fix)
    return cgroups, Finding(name="own users", ok=True, detail="each machine runs as its own user", required=False)


def _recommended(name: str, detail: str, fix: str) -> Finding:
    # The command line prints a fix only for requirements; recommendations have it in the finding.
    return Finding(name=name, ok=False, detail=f"{detail}; {fix}" if fix else detail, fix=fix, required=False)


def _tools() -> list[Finding]:
    needed = _TOOLS if os.geteuid() == 0 else _TOOLS | _TOOLS_OF_A_USER
    path = f"{os.environ.get('PATH', os.defpath)}:{_ADMIN_PATH}"
    findings: list[Finding] = []
    for tool, package in needed.items():
        place = shutil.which(tool, path=path)
        fix = "" if place else f"sudo apt-get install -y {package}"
        findings.append(Finding(name=tool, ok=place is not None, detail=place or "not on PATH", fix=fix))
    return findings


def _directory(data: Path) -> Finding:
    place = _nearest(data)
    ok = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    detail = f"{data} {'can be written' if ok else f'cannot be written ({place})'}"
    return Finding(
        name="data directory",
        ok=ok,
        detail=detail,
        fix="" if ok else "Set CASEMATE_DATA to a directory that you can write to",
    )


def _disk(data: Path) -> Finding:
    free = shutil.disk_usage(_nearest(data)).free
    ok = free >= _DISK_NEEDED
    fix = "" if ok else f"Free {(_DISK_NEEDED - free) / _GIB:.1f} GiB, or set CASEMATE_DATA to a larger disk"
    return Finding(name="disk", ok=ok, detail=f"{free / _GIB:.1f} GiB free for images and sandboxes", fix=fix)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    ok = total >= _MEMORY_NEEDED
    fix = "" if ok else "Give the host at least 2 GiB of memory"
    return Finding(name="memory", ok=ok, detail=f"{total / _GIB:.1f} GiB", fix=fix)


def _nearest(path: Path) -> Path:
    return path if path.exists() else _nearest(path.parent)
