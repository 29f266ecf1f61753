"""The operator's defaults of new sandboxes, the same for MCP and REST."""

from __future__ import annotations

from dataclasses import dataclass

from vmm.sandboxes.spec import IDLE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Image, vCPUs, memory in MiB, and seconds without use until a sandbox may fall asleep (0 is never)."""

    image: str = "code"
    cpu: int = 1
    mem: int = 1024
    idle_s: int = IDLE_S
