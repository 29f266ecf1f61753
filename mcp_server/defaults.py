"""What a sandbox has whose creator does not say: the operator's word, for every surface the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Image, vCPUs and memory in MiB."""

    image: str = "code"
    cpu: int = 1
    mem: int = 1024
