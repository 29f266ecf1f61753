"""Finds a cgroup that the server may divide: one delegated by systemd, a container's own, or the host's root.

Source: systemd's CGROUP_DELEGATION.md, and cgroups(7).
"""

from __future__ import annotations

import os
from pathlib import Path

from .cgroup import AS_SERVICE, SERVER, WANTED, Cgroups, NoCgroups, is_top, processes, words

_AS_SCOPE = "systemd-run --user --scope -p Delegate=yes casemate serve"


def find(mounts: Path = Path("/proc/self/mounts"), own: Path = Path("/proc/self/cgroup")) -> Cgroups | NoCgroups:
    """Find a cgroup that this process may divide. Changes nothing.

    Args:
        mounts: The kernel's list of mounts.
        own: The kernel's list of this process's cgroups.
    """
    lines = [line.split() for line in mounts.read_text().splitlines()]
    mounted = [place for _, place, kind, *_ in lines if kind == "cgroup2"]
    path = next((line[3:] for line in own.read_text().splitlines() if line.startswith("0::")), "")
    if not mounted or not path or path.startswith("/.."):
        return NoCgroups(reason="this process sees no cgroup v2", fix=AS_SERVICE)
    here = Path(mounted[0], path.strip("/"))
    base = here.parent if here.name == SERVER else here
    controllers = tuple(controller for controller in WANTED if controller in words(base / "cgroup.controllers"))
    if not controllers:
        if any(kind == "cgroup" and "memory" in options.split(",") for _, _, kind, options, *_ in lines):
            return NoCgroups(reason="the host uses cgroup v1", fix="boot with systemd.unified_cgroup_hierarchy=1")
        return NoCgroups(reason=f"cgroup {path} may limit none of {', '.join(WANTED)}", fix=AS_SERVICE)
    obstacle = _obstacle(base)
    if obstacle is not None:
        return obstacle
    others = processes(base) - {os.getpid()}
    if others and not (is_top(base) or _is_delegated(base) or path == "/"):
        reason = f"{len(others)} other programs share the server's cgroup {path}"
        return NoCgroups(reason=reason, fix=f"{_AS_SCOPE}, or {AS_SERVICE}")
    return Cgroups(base=base, controllers=controllers)


def _obstacle(base: Path) -> NoCgroups | None:
    needed = (base, base / "cgroup.procs", base / "cgroup.subtree_control")
    if all(os.access(place, os.W_OK) for place in needed):
        return None
    if os.statvfs(base).f_flag & os.ST_RDONLY:
        return NoCgroups(reason="the cgroups are mounted read-only, as in most containers", fix=AS_SERVICE)
    return NoCgroups(reason=f"this user may not divide the cgroup {base}", fix=f"{_AS_SCOPE}, or {AS_SERVICE}")


def _is_delegated(base: Path) -> bool:
    """Tell whether systemd has delegated a cgroup: everything in it belongs to the service."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(base, name) == b"1":
                return True
        except OSError:  # not set, or not readable
            continue
    return False
