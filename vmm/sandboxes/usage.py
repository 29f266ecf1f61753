"""What sandboxes use of the host, counted in one way for quotas, for their owners and for the operator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from .sandbox import Sandbox, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What some sandboxes use together. Memory and disk in MiB; those that do not run use no CPU and no memory."""

    sandboxes: int = 0
    cpus: int = 0
    mem: int = 0
    disk: int = 0

    @classmethod
    def of(cls, sandboxes: Iterable[Sandbox]) -> Self:
        """Count what these use; deleted ones use nothing."""
        live = [sandbox for sandbox in sandboxes if sandbox.state is not State.DELETED]
        holding = [sandbox for sandbox in live if sandbox.state.holds_memory]
        return cls(
            sandboxes=len(live),
            cpus=sum(sandbox.cpu for sandbox in holding),
            mem=sum(sandbox.mem for sandbox in holding),
            disk=sum(sandbox.disk for sandbox in live),
        )
