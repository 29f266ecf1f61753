"""What a sandbox has whose creator does not say: the operator's word, for every surface the same."""

from __future__ import annotations

from dataclasses import dataclass

from vmm.sandboxes.spec import IDLE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Image, vCPUs, memory in MiB, and after how many seconds without use it may fall asleep (0 is never)."""

    image: str = "code"
    cpu: int = 1
    mem: int = 1024
    idle_s: int = IDLE_S
