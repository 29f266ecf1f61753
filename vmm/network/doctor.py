"""Examines how sandboxes can reach the network on this host."""

from __future__ import annotations

import anyio.to_thread

from ..hypervisor.doctor import Finding
from .taps import host
from .taps.settings import TapSettings

_USER_MODE = "user mode: the server carries the TCP connections and DNS lookups of sandboxes"


async def examine(taps: TapSettings) -> Finding:
    """Examine which way is possible, and what keeps packets from passing. Changes nothing."""
    status = await anyio.to_thread.run_sync(host.status, taps)
    problems = "; ".join(f"{problem.detail} ({problem.fix})" for problem in status.problems)
    if not problems:
        detail = f"taps: each sandbox has a network device on the bridge {taps.bridge}, {taps.gateway}"
    elif status.up:
        detail = f"taps on the bridge {taps.bridge}, with problems: {problems}"
    else:
        detail = f"{_USER_MODE}; taps are not possible: {problems}"
    return Finding(name="network", ok=True, detail=detail, required=False)
